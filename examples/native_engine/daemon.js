// The daemon around a handler, written from docs/protocol.md, whose sections the comments name.
//
// It handles one message after another, in one thread: while the handler runs, nothing else does. The controller sees
// on the board what runs, so that a handler may take as long as its stream allows.
'use strict';
const [fs, net, path, zlib] = ['fs', 'net', 'path', 'zlib'].map((name) => require(name));
const { HELLO, CREDIT, DEPTH, MESSAGE, OUTCOMES, DRAIN, GOODBYE, DONE, FAILED, REJECTED } = require('./protocol.js');
const { frame, opening, claimsOf, pack, unpack, unsendable } = require('./protocol.js');

let exitCode = 2; // Nothing is configured yet.
process.on('uncaughtException', (error) => end(exitCode, `The engine cannot go on: ${error.message}`));
const file = process.argv[2] ?? ['/run/harmonicio/configuration.json'].find(fs.existsSync);
const given = JSON.parse(fs.readFileSync(file ?? 0));
if (file) fs.unlinkSync(file); // It holds the engine's key.
exitCode = 3;
const { declaration, engine, worker, ticket } = given;
if (Object.keys(declaration.plugins).length) throw new Error('its stream declares plugins, of which it has none.');
// Through a descriptor, because the path of a UNIX socket ends at 107 bytes.
const folder = `/proc/self/fd/${fs.openSync(path.dirname(given.control_socket), fs.constants.O_DIRECTORY)}`;
const board = fs.openSync(`${folder}/handlers`, 'w', 0o600);
const now = () => Number(process.hrtime.bigint()) / 1e9; // Seconds of the monotonic clock, which is the host's.
const budget = Math.min(given.payload_budget_bytes, 2 ** 31); // Node has no larger buffers.
const CRC32 = zlib.crc32 ? 8 : 0; // Node has it since 20.15; who cannot compute a checksum does not offer it.
const TUNED = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10_000 };
const tally = { handled: 0, failed: 0, handled_from_backlog: 0, received_bytes: 0 };
const [peers, leases] = [new Set(), new Map()];
let [control, address, isUsed, depth, epoch, heldBytes] = [null, null, false, 0, 0, 0];
let [state, since, reportedAt, heardAt, leaveAt] = ['starting', now(), 0, now(), Infinity];

// ── the controller (sections 10 and 11) ───────────────────────────────────────────────────────────────────────────────
function dialController() {
  let text = '';
  control = net.connect(`${folder}/${path.basename(given.control_socket)}`).setEncoding('utf8');
  control.on('connect', report).on('error', () => {}); // What goes wrong ends in `close`.
  control.on('close', () => setTimeout(dialController, 200));
  control.on('data', (more) => {
    const lines = (text + more).split('\n');
    text = lines.pop();
    for (const order of lines.map((line) => JSON.parse(line))) {
      epoch = order.epoch || epoch;
      if (order.within_s !== null) drain(order.within_s);
    }
  });
}
function report() {
  reportedAt = now();
  const [stream, stream_version, state_since_s] = [declaration.name, declaration.version, reportedAt - since];
  const record = { engine, stream, stream_version, state, state_since_s, address, pid: process.pid, ...tally };
  if (control.readyState === 'open') control.write(`${JSON.stringify(record)}\n`);
}
function look() {
  const [at, before] = [now(), state];
  state = leaveAt < Infinity ? 'draining' : !address ? 'starting' : isUsed ? 'busy' : 'idle';
  if (state !== before) since = at;
  if (state !== before || at - reportedAt >= Math.min(1, declaration.timeout_s / 4)) report();
  isUsed = false;
  if (control.readyState === 'open') heardAt = at;
  if (at - heardAt > given.orphan_after_s) drain(declaration.timeout_s);
  for (const peer of peers) if (peer.epoch < epoch) leave(peer, { code: 'not_allowed', text: 'It was revoked.' });
  if (state !== 'draining' || (at < leaveAt && [...peers].some((peer) => !peer.isMaster))) return;
  for (const peer of peers) leave(peer);
  setTimeout(end, 300, 0);
}
function drain(within_s) {
  if (leaveAt === Infinity) for (const { socket, isOpen } of peers) if (isOpen) socket.write(frame(DRAIN, [within_s]));
  leaveAt = Math.min(leaveAt, now() + Math.min(within_s, 1)); // All that came is answered; peers may see that, and go.
  server.close();
}
function end(code, text) {
  if (text) console.error(text);
  process.exit(code);
}
function show(id) {
  const row = Buffer.alloc(210);
  row.writeDoubleLE(now());
  row.writeUInt16LE(row.write(id, 10), 8);
  fs.writeSync(board, row, 0, row.length, 0);
}

// ── data connections (sections 2 to 6) ───────────────────────────────────────────────────────────────────────────────
function readerOf(socket) {
  const chunks = socket[Symbol.asyncIterator]();
  let chunk = Buffer.alloc(0);
  return async (length, patience_s = 30) => {
    const bytes = Buffer.allocUnsafe(length);
    for (let filled = 0; filled < length; ) {
      if (!chunk.length) {
        socket.setTimeout((filled ? 30 : patience_s) * 1000); // A frame that stands still ends the connection.
        chunk = (await chunks.next()).value;
        if (!chunk) throw new Error('The stream has ended.');
      }
      const count = chunk.copy(bytes, filled);
      [filled, chunk] = [filled + count, chunk.subarray(count)];
    }
    socket.setTimeout(0);
    return bytes;
  };
}
async function serve(socket, isMaster) {
  const peer = { socket, isMaster, isOpen: false, told: 0, received: 0, receivedBytes: 0 };
  const read = readerOf(socket.on('timeout', () => socket.destroy()).on('error', () => {}));
  peers.add(peer);
  setTimeout(() => peer.isOpen || socket.destroy(), 10_000).unref();
  try {
    for (;;) {
      const head = opening(await read(40, 0));
      if (!peer.isOpen && head.length > 16_384) throw new Error('The HELLO is too long.');
      const section = head.length ? unpack(await read(head.length)) : {};
      if (head.type === GOODBYE) leave(peer);
      else if (head.type === HELLO && !peer.isOpen) greet(peer, section);
      else if (head.type === MESSAGE && peer.isOpen) await receive(peer, read, head, section);
      else if (head.type === DEPTH && peer.isOpen && isMaster) depth = section[0];
      else if (head.type !== DRAIN || !peer.isOpen) throw new Error(`A frame of type ${head.type} has no place here.`);
      grant();
    }
  } catch (error) {
    leave(peer, { code: error.refusal ?? 'protocol', text: error.message });
  }
  peers.delete(peer);
  if (isMaster) depth = 0;
  grant();
  return peer.isOpen;
}
function leave({ socket }, reason = {}) {
  if (socket.writableEnded || socket.destroyed) return;
  socket.end(frame(GOODBYE, reason)).removeAllListeners('readable').resume();
  setTimeout(() => socket.destroy(), 250);
}
async function dialMaster(failures) {
  const socket = net.connect({ ...given.master_data, ...TUNED });
  socket.on('connect', () => socket.write(frame(HELLO, { ...self(['crc32']), worker, ticket })));
  const again = (await serve(socket, true)) ? 1 : failures + 1;
  setTimeout(dialMaster, Math.min(5000, 50 * 2 ** again) * (0.5 + Math.random() / 2), again);
}
function self(offered = []) {
  const checksums = CRC32 && offered.includes('crc32') ? ['crc32'] : [];
  const { name: stream, max_message_bytes } = declaration;
  return { role: 'engine', versions: [1], stream, engine, max_message_bytes, checksums };
}
function greet(peer, hello) {
  if (!peer.isMaster) {
    peer.epoch = admit(hello);
    peer.socket.write(frame(HELLO, self(hello.checksums)));
  }
  peer.isOpen = true;
}
function admit({ role, versions, stream, source, ticket: shown = '' }) {
  const demand = (isSo, text, refusal = 'not_allowed') => {
    if (!isSo) throw Object.assign(new Error(text), { refusal });
  };
  demand(versions.includes(1), 'This engine speaks version 1.', 'protocol');
  demand(role === 'connector' && stream === declaration.name, 'This engine serves connectors of its own stream.');
  const [claims, wall] = [claimsOf(shown, given.key), Date.now() / 1000];
  demand(claims && claims.kind === 'lease', 'The ticket is not valid here.');
  demand(claims.stream === stream && claims.engine === engine, 'The ticket is for another engine.');
  demand(claims.source === source && source, 'The ticket was given to another source.');
  demand(claims.epoch >= epoch, 'The ticket was revoked.');
  const forgetAt = claims.issued_at + claims.term_s + 900;
  demand(wall > claims.issued_at - 900 && wall < forgetAt, 'The ticket is too old, or from the future.');
  for (const [lease, known] of leases) if (known.forgetAt < wall) leases.delete(lease);
  const term = leases.get(claims.lease) ?? { source, forgetAt, endsAt: now() + claims.term_s };
  leases.set(claims.lease, term);
  demand(term.source === source && now() < term.endsAt, 'The lease has ended.');
  demand(leaveAt === Infinity, 'The engine takes no new connections, because it ends.', 'unavailable');
  return claims.epoch;
}
async function receive(peer, read, { flags, id, size }, { id: text, metadata = {} }) {
  const number = peer.received;
  if (flags & ~(3 | CRC32) || (flags & 1 && !text)) throw new Error(`A message came with the flags ${flags}.`);
  const answer = (kind, ...detail) => peer.socket.write(frame(OUTCOMES, [[kind, number, number, ...detail]]));
  const [reason, why] = refusal(peer, size);
  if (reason) {
    answer(REJECTED, { reason, text: why });
    for (let left = size + (flags & 8); left > 0; left -= 65_536) await read(Math.min(left, 65_536));
  } else {
    heldBytes += size;
    try {
      const payload = await read(size);
      const isIntact = !(flags & 8) || zlib.crc32(payload) === (await read(8)).readUInt32BE(4);
      if (isIntact) answer(...outcomeOf(peer, flags & 1 ? text : id, payload, metadata));
      else answer(REJECTED, { reason: 'checksum', text: 'The payload was damaged on its way.' });
    } finally {
      heldBytes -= size;
    }
  }
  [peer.received, peer.receivedBytes] = [number + 1, peer.receivedBytes + size];
}
function refusal({ told, received }, size) {
  if (leaveAt < Infinity) return ['draining', 'The engine takes no new messages, because it ends.'];
  if (size > declaration.max_message_bytes) return ['too_large', `The payload has ${size} bytes.`];
  if (received >= told) return ['no_credit', 'The message is beyond the credit that this engine gave.'];
  return size > budget - heldBytes ? ['storage', `There is no room in memory for ${size} bytes.`] : [];
}
function outcomeOf(peer, id, payload, metadata) {
  isUsed = true;
  tally.handled++;
  tally.received_bytes += payload.length;
  if (peer.isMaster) tally.handled_from_backlog++;
  show(id); // It is known even if the handler ends the process, or keeps it from reporting.
  try {
    const result = handle(payload, metadata);
    if (pack(result).length > 65_536) throw unsendable('The result is larger than 64 KiB.');
    return [DONE, result];
  } catch (thrown) {
    tally.failed++;
    const { name, message, stack, retryable = true } = thrown instanceof Error ? thrown : new Error(String(thrown));
    return [FAILED, { type: name, text: message.slice(0, 4000), traceback: stack.slice(0, 12_000), retryable }];
  } finally {
    show('');
  }
}
function grant() {
  for (const peer of peers) {
    if (!peer.isOpen || leaveAt < Infinity || peer.told > peer.received || (depth > 0 && !peer.isMaster)) continue;
    peer.told = peer.received + 1;
    peer.socket.write(frame(CREDIT, [peer.told, peer.receivedBytes + budget]));
  }
}

const server = net.createServer(TUNED, (socket) => serve(socket, false));
let handle = null;

/** Serve the stream until this engine is told to drain. */
function run(handler) {
  handle = handler;
  server.listen(given.listen_port ?? 0, given.listen_host, () => {
    address = { host: server.address().address, port: server.address().port };
    dialMaster(0);
  });
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => (address ? drain(30) : end(0)));
  dialController();
  setInterval(look, 50);
}

module.exports = { run };
