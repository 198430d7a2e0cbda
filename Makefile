# convstore. `make run` shows it working, `make test` proves it; `make help` lists the rest.
BUILD ?= build
CC ?= cc
PYTHON ?= /usr/bin/python3
VERSION := 0.1.0

PKGS := libuv libpq libcurl msgpack libsystemd jansson libxxhash
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wundef \
        -Wwrite-strings -Werror
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2
OPT ?= -O2 -g $(HARDEN)
SAN ?=
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE $(WARN) $(OPT) $(SAN) -fPIC -MMD -MP -I. -I$(BUILD) \
        -DCONVSTORE_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(PKGS)) $(CFLAGS)
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now $(SAN) $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PKGS)) -linih -lm -lpthread

# One rule for each folder: proto/ and daemon/ (without main.c) become archives, so that a unit
# test links what it names and no more.
obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
PROTO := $(call obj,$(wildcard proto/*.c))
DAEMON := $(call obj,$(filter-out daemon/main.c,$(wildcard daemon/*.c)))
CTL := $(call obj,$(wildcard client/convstorectl*.c))
CLIENT := $(filter-out $(CTL),$(call obj,$(wildcard client/*.c)))
UNITS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/%,$(wildcard tests/bench/*.c))
ARCHIVES := $(BUILD)/libdaemon.a $(BUILD)/libconvstore.a $(BUILD)/libproto.a
PROGRAMS := $(BUILD)/convstored $(BUILD)/convstorectl $(BUILD)/libconvstore.so

.PHONY: all build check deps run test bench fmt lint asan tsan fuzz install clean help
all: deps
	@$(MAKE) --no-print-directory build
build: $(PROGRAMS) $(UNITS) $(BENCHES)

deps:
	@tests/setup/deps
run: all
	@tests/setup/run $(BUILD)
test: all
	@$(MAKE) --no-print-directory check
check: build
	@$(PYTHON) tests/run.py --build $(BUILD) $(TESTS)

$(BUILD)/convstored: $(BUILD)/daemon/main.o $(BUILD)/libdaemon.a $(BUILD)/libproto.a
$(BUILD)/convstorectl: $(CTL) $(BUILD)/libconvstore.a $(BUILD)/libdaemon.a $(BUILD)/libproto.a
$(UNITS): $(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(ARCHIVES)
$(BENCHES): $(BUILD)/%: $(BUILD)/tests/bench/%.o $(ARCHIVES)
$(BUILD)/convstored $(BUILD)/convstorectl $(BENCHES):
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(UNITS):
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka
$(BUILD)/libconvstore.so: $(CLIENT) $(BUILD)/libproto.a client/convstore.map
	$(CC) -shared $(SAN) -Wl,-z,relro,-z,now -Wl,-soname,libconvstore.so.1 \
	  -Wl,--version-script=client/convstore.map -o $@ $(filter-out %.map,$^) -lmsgpackc
$(BUILD)/libproto.a: $(PROTO)
$(BUILD)/libdaemon.a: $(DAEMON)
$(BUILD)/libconvstore.a: $(CLIENT)
%.a:
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

# SQL and other text that the daemon carries: one C array for each file.
$(BUILD)/daemon/%.sql.h: daemon/%.sql
	@mkdir -p $(@D)
	(echo "static const char $(subst -,_,$*)_sql[] = {"; od -An -v -tx1 $< | \
	  sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'; echo "0};") > $@
$(BUILD)/daemon/schema.o: $(patsubst daemon/%.sql,$(BUILD)/daemon/%.sql.h,$(wildcard daemon/*.sql))

SOURCES := $(wildcard proto/*.[ch] daemon/*.[ch] client/*.[ch] tests/*/*.[ch])
fmt:
	clang-format -i $(SOURCES)
lint:
	clang-format --dry-run -Werror $(SOURCES)
	@$(MAKE) --no-print-directory BUILD=build/clang CC=clang build

asan: deps
	@$(MAKE) --no-print-directory BUILD=build/asan CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" check
tsan: deps
	@$(MAKE) --no-print-directory BUILD=build/tsan CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN=-fsanitize=thread check

# Each parser's fuzz target, FUZZ_SECONDS long. The corpus stays and grows in $(BUILD)/fuzz.
FUZZ_SECONDS ?= 60
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" \
	  $(FUZZERS:%=run-fuzz-%)
run-fuzz-%: $(BUILD)/fuzz_%
	@mkdir -p $(BUILD)/corpus/$* $(BUILD)/seeds/$*
	@$(PYTHON) tests/fuzz/make_seeds $(BUILD)/seeds
	@$< -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
	  $(patsubst %,-dict=%,$(wildcard tests/fuzz/$*.dict)) -artifact_prefix=$(BUILD)/ \
	  $(BUILD)/corpus/$* $(BUILD)/seeds/$* >$<.log 2>&1 || { tail -n 40 $<.log; exit 1; }
	@sed -n 's/^stat::number_of_executed_units: */fuzz_$*: inputs tried without a failure: /p' $<.log
.SECONDARY:
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libproto.a
	$(CC) -fsanitize=fuzzer $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
