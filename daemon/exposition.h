/* Prometheus's text exposition format 0.0.4: how a family of metrics is written. Pure. */
#ifndef DAEMON_EXPOSITION_H
#define DAEMON_EXPOSITION_H

#include <stdio.h>

#include "daemon/histogram.h"

/* Begins a family. type: "counter", "gauge" or "histogram"; help: one line. */
void exposition_family(FILE *out, const char *name, const char *type, const char *help);

/* One sample. Behind value: pairs of label and text, then NULL. Any bytes may stand in the text. */
void exposition_sample(FILE *out, const char *name, double value, ...) __attribute__((sentinel));

/* A family of one sample without labels. */
void exposition_counter(FILE *out, const char *name, const char *help, double value);
void exposition_gauge(FILE *out, const char *name, const char *help, double value);

/* The buckets, sum and count of a histogram of microseconds, in seconds. */
void exposition_histogram(FILE *out, const char *name, const char *label, const char *text,
                          const struct histogram *h);

#endif
