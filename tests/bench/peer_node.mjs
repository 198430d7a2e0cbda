// What a chat service in Node does without convstored, in the two ways that are common:
//
//   inline  each conversation: ask the embedder over HTTP, then one autocommit INSERT, both awaited.
//           100 conversations at a time over a pool of 10 connections, node-postgres's default.
//   queue   an array in the process; what has gathered goes out as one embedding request for 100 texts
//           and one multi-row INSERT, three batches at a time. A crash loses the array.
//
//   node peer_node.mjs inline|queue PATH-OF-POSTGRESQLS-SOCKET SECONDS [PATH-OF-AN-EMBEDDERS-SOCKET]
//
// Writes convstored's tables. Needs nothing but Node: the PostgreSQL client is below, and speaks as
// node-postgres does (extended protocol, parameters as text). The embedder is a process of its own, as
// Ollama would be, but only hashes words: it flatters this peer, whose real embedder takes many
// milliseconds. Where a socket is named the embedder behind it is asked instead (bench_embedding --serve
// takes 150 ms). Prints one line of JSON like convstore-bench.
import { fork } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import http from 'node:http';
import net from 'node:net';

const DIMENSION = 768;
const TEXT_BYTES = 2048;
const AT_ONCE = 100;
const POOL = 10;
const BATCH = 100;
const BATCHES_AT_ONCE = 3;
const ROW_COLUMNS = 8; // parameters of a row

// ---- The embedder's process ----

function embed(text) {
  const vector = new Float64Array(DIMENSION);
  for (const word of text.split(/\s+/)) {
    let hash = 2166136261;
    for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 16777619);
    vector[(hash >>> 1) % DIMENSION] += hash & 1 ? 1 : -1;
  }
  const length = Math.hypot(...vector) || 1;
  return Array.from(vector, (value) => value / length);
}

function serveEmbeddings() {
  const server = http.createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      const { input } = JSON.parse(Buffer.concat(parts).toString());
      response.end(JSON.stringify({ embeddings: input.map(embed) }));
    });
  });
  server.keepAliveTimeout = 0; // an idle connection that it ends would fail the request that comes just then
  server.listen(0, '127.0.0.1', () => process.send(server.address().port));
  process.on('disconnect', () => process.exit(0)); // the parent has gone, whatever became of it
}

// ---- A PostgreSQL client ----

class Postgres {
  constructor(path) {
    this.waiting = [];
    this.input = Buffer.alloc(0);
    this.prepared = new Set();
    this.socket = net.connect(path);
    this.socket.on('data', (data) => this.receive(data));
    this.socket.on('error', (error) => this.fail(error));
  }

  static async open(path) {
    const client = new Postgres(path);
    const ready = client.answer();
    const settings = Buffer.from('user\0postgres\0database\0postgres\0\0');
    const head = Buffer.alloc(8);
    head.writeInt32BE(8 + settings.length, 0);
    head.writeInt32BE(196608, 4);
    client.socket.write(Buffer.concat([head, settings]));
    await ready;
    return client;
  }

  answer() {
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject, rows: [] }));
  }

  fail(error) {
    for (const one of this.waiting.splice(0)) one.reject(error);
  }

  receive(data) {
    this.input = this.input.length > 0 ? Buffer.concat([this.input, data]) : data;
    let at = 0;
    while (this.input.length - at >= 5) {
      const length = this.input.readInt32BE(at + 1) + 1;
      if (this.input.length - at < length) break;
      this.message(String.fromCharCode(this.input[at]), this.input.subarray(at + 5, at + length));
      at += length;
    }
    this.input = this.input.subarray(at);
  }

  message(type, body) {
    const current = this.waiting[0];
    if (type === 'E') {
      current.error = new Error(body.toString().split('\0').find((field) => field[0] === 'M'));
    } else if (type === 'D') {
      const length = body.readInt32BE(2);
      current.rows.push(body.subarray(6, 6 + length).toString());
    } else if (type === 'Z') {
      this.waiting.shift();
      if (current.error) current.reject(current.error);
      else current.resolve(current.rows);
    }
  }

  static packet(type, ...parts) {
    const body = Buffer.concat(parts);
    const head = Buffer.alloc(5);
    head.write(type, 0);
    head.writeInt32BE(body.length + 4, 1);
    return Buffer.concat([head, body]);
  }

  // Prepares where this connection has not, then one round trip.
  query(name, sql, values) {
    const packets = [];
    if (!this.prepared.has(name)) {
      packets.push(Postgres.packet('P', Buffer.from(`${name}\0${sql}\0\0\0`)));
      this.prepared.add(name);
    }
    const parts = [Buffer.from(`\0${name}\0\0\0`), Buffer.alloc(2)];
    parts[1].writeUInt16BE(values.length, 0);
    for (const value of values) {
      const text = Buffer.from(value);
      const length = Buffer.alloc(4);
      length.writeInt32BE(text.length, 0);
      parts.push(length, text);
    }
    parts.push(Buffer.from('\0\0'));
    packets.push(Postgres.packet('B', ...parts));
    packets.push(Postgres.packet('E', Buffer.from('\0\0\0\0\0')));
    packets.push(Postgres.packet('S'));
    const done = this.answer();
    this.socket.write(Buffer.concat(packets));
    return done;
  }

  close() {
    this.socket.end();
  }
}

class Pool {
  constructor(clients) {
    this.free = clients;
    this.waiting = [];
  }

  async use(work) {
    const client = this.free.pop() ?? (await new Promise((resolve) => this.waiting.push(resolve)));
    try {
      return await work(client);
    } finally {
      const next = this.waiting.shift();
      if (next) next(client);
      else this.free.push(client);
    }
  }
}

// ---- Conversations ----

const WORDS = ('the you please order account with and for I would like to change my address because it '
  + 'was not sent on Monday could look thank that invoice number has been paid already when will arrive '
  + 'tomorrow support message of course help your password is this still possible refund').split(' ');
let serial = 0;

function conversation() {
  let text = `${(serial++).toString(16).padStart(12, '0')}`;
  while (text.length < TEXT_BYTES) text += ` ${WORDS[Math.floor(Math.random() * WORDS.length)]}`;
  return { id: randomUUID(), user: `user-${Math.floor(Math.random() * 1000)}`,
           transcript: text.slice(0, TEXT_BYTES) };
}

// embedder: {port} or {socketPath}
function embeddings(agent, embedder, texts) {
  return new Promise((resolve, reject) => {
    const request = http.request({ agent, ...embedder, method: 'POST', path: '/api/embed' }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve(JSON.parse(Buffer.concat(parts).toString()).embeddings));
    });
    request.on('error', reject);
    request.end(JSON.stringify({ model: 'hash', input: texts }));
  });
}

// One statement for both tables, so that a row of each costs one commit.
function insertStatement(count, vectorType) {
  const rows = [];
  for (let i = 0; i < count; i++) {
    const first = i * ROW_COLUMNS;
    const at = (n) => `$${first + n}`;
    rows.push(`(${at(1)}::text,${at(2)}::uuid,${at(3)}::timestamptz,${at(4)}::bytea,${at(5)}::text,`
      + `${at(6)}::text,${at(7)}::jsonb,${at(8)}::${vectorType})`);
  }
  return `WITH d (user_id, id, created_at, content_hash, platform, transcript, metadata, embedding) AS (
      VALUES ${rows.join(',')}),
    c AS (INSERT INTO convstore.conversations
      (user_id, id, created_at, content_hash, platform, transcript, metadata)
      SELECT user_id, id, created_at, content_hash, platform, transcript, metadata FROM d
      ON CONFLICT DO NOTHING)
    INSERT INTO convstore.embeddings
      (user_id, conversation_id, model_id, chunk, byte_start, byte_end, embedding)
      SELECT user_id, id, 1, 0, 0, 0, embedding FROM d ON CONFLICT DO NOTHING`;
}

function columns(one, vector, brackets) {
  return [one.user, one.id, new Date().toISOString(), `\\x${randomBytes(16).toString('hex')}`, 'bench',
          one.transcript, '{"lang":"en"}', brackets[0] + vector.join(',') + brackets[1]];
}

// ---- The two ways ----

async function inline(run) {
  const sql = insertStatement(1, run.vectorType);
  const flow = async () => {
    while (performance.now() < run.end) {
      const one = conversation();
      const started = performance.now();
      const [vector] = await embeddings(run.agent, run.embedder, [one.transcript]);
      await run.pool.use((client) => client.query('one', sql, columns(one, vector, run.brackets)));
      run.rows++;
      run.latencies.push(performance.now() - started);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, flow));
}

async function queue(run) {
  const sql = insertStatement(BATCH, run.vectorType);
  const flow = async () => {
    while (performance.now() < run.end) {
      const started = performance.now();
      const batch = Array.from({ length: BATCH }, conversation);
      const vectors = await embeddings(run.agent, run.embedder, batch.map((one) => one.transcript));
      const values = batch.flatMap((one, i) => columns(one, vectors[i], run.brackets));
      await run.pool.use((client) => client.query('batch', sql, values));
      run.rows += BATCH;
      run.latencies.push(performance.now() - started);
    }
  };
  await Promise.all(Array.from({ length: BATCHES_AT_ONCE }, flow));
}

function report(way, run, seconds) {
  const sorted = run.latencies.sort((a, b) => a - b);
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] * 1000;
  const latency = { count: sorted.length, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99),
                    p99_9: at(0.999), p99_99: at(0.9999), max: at(1) };
  const result = { name: way, target: 'node', sent: run.rows, acked: run.rows, seconds,
                   per_second: run.rows / seconds, latency_us: latency, batch: way === 'queue' ? BATCH : 1 };
  console.log(JSON.stringify({ command: 'peer_node', version: process.version, results: [result] }));
}

async function main(way, path, seconds, socketPath) {
  const own = socketPath ? null : fork(import.meta.filename ?? process.argv[1], ['embedder']);
  const embedder = own ? { port: await new Promise((resolve) => own.once('message', resolve)) } : { socketPath };
  const clients = await Promise.all(Array.from({ length: POOL }, () => Postgres.open(path)));
  const [type] = await clients[0].query('type', `select format_type(atttypid, -1) from pg_attribute
    where attrelid = 'convstore.embeddings'::regclass and attname = 'embedding'`, []);
  const run = { embedder, pool: new Pool(clients), agent: new http.Agent({ keepAlive: true }), rows: 0,
                latencies: [], vectorType: type, brackets: type === 'real[]' ? '{}' : '[]' };
  const started = performance.now();
  run.end = started + seconds * 1000;
  await (way === 'inline' ? inline : queue)(run);
  report(way, run, (performance.now() - started) / 1000);
  for (const client of clients) client.close();
  run.agent.destroy();
  own?.disconnect();
}

const [way, path, seconds, socketPath] = process.argv.slice(2);
if (way === 'embedder') {
  serveEmbeddings();
} else if ((way === 'inline' || way === 'queue') && path && Number(seconds) > 0) {
  await main(way, path, Number(seconds), socketPath);
} else {
  console.error('peer_node.mjs inline|queue PATH-OF-POSTGRESQLS-SOCKET SECONDS [PATH-OF-AN-EMBEDDERS-SOCKET]');
  process.exitCode = 2;
}
