// A processing engine in one file, written from docs/protocol.md, whose sections the comments name. See README.md.
'use strict';
const [crypto, fs, net, path, readline, zlib] = ['crypto', 'fs', 'net', 'path', 'readline', 'zlib'].map(require);
const [HELLO, CREDIT, DEPTH, MESSAGE, OUTCOMES, DRAIN, GOODBYE] = [1, 2, 3, 4, 5, 8, 9];
const [DONE, FAILED, REJECTED] = [2, 3, 4];

function handle(pixels, { background = 0 }) { // This is the handler, and what to replace: the brightness of an image.
  if (typeof background !== 'number') throw new TypeError('The background is no number.');
  const sum = pixels.reduce((total, value) => total + value, 0);
  return { count: pixels.length, mean: pixels.length ? sum / pixels.length - background : null };
}

// Section 10: the configuration, and exit codes.
process.exitCode = 2; // No usable configuration.
process.on('uncaughtException', (error) => { console.error(`It cannot go on: ${error.message}`); process.exit(); });
const file = process.argv[2] ?? ['/run/harmonicio/configuration.json'].find(fs.existsSync);
const given = JSON.parse(fs.readFileSync(file ?? 0));
if (file) fs.unlinkSync(file); // It holds the engine's key.
const { engine, declaration: { name: stream, version: stream_version, plugins, max_message_bytes, timeout_s } } = given;
process.exitCode = 3; // It cannot start.
must(Object.keys(plugins).length === 0, 'Its stream declares plugins, and it has none.');
process.chdir(path.dirname(given.control_socket)); // The whole path may be too long for a UNIX socket.
const budget = Math.min(given.payload_budget_bytes / 2, 2 ** 30); // Half: Node has a payload twice when it joins it.
const introduction = { role: 'engine', versions: [1], stream, engine, max_message_bytes };
const report = { engine, stream, stream_version, state: 'starting', pid: process.pid, handled: 0 };
const peers = new Set();
let [control, since_ms, epoch, depth] = [null, performance.now(), 0, 0];
function must(isSo, text, goodbye) { if (!isSo) throw Object.assign(new Error(text), { goodbye, retryable: false }); }

// Section 11: the controller.
function dialController() {
  control = net.connect(path.basename(given.control_socket)).on('connect', () => tell()).on('error', () => {});
  control.on('close', () => setTimeout(dialController, 200));
  readline.createInterface(control).on('error', () => {}).on('line', (line) => {
    const order = JSON.parse(line);
    epoch = order.epoch || epoch;
    for (const peer of peers) if (peer.epoch < epoch) peer.leave({ code: 'not_allowed', text: 'It was revoked.' });
    if (typeof order.within_s === 'number') drain(order.within_s);
  });
}
function tell(news = {}) {
  if (news.state && news.state !== report.state) since_ms = performance.now();
  Object.assign(report, news, { state_since_s: (performance.now() - since_ms) / 1000 });
  if (control.readyState !== 'open' || control.writableNeedDrain) return;
  control.write(`${JSON.stringify(report)}\n`); // At once, so that it is out if a handler ends the process.
  orphaned.refresh();
}
function drain(within_s) {
  if (report.state === 'draining') return;
  tell({ state: 'draining' });
  server.close();
  for (const peer of peers) if (peer.isOpen) peer.say(DRAIN, [within_s]);
  setTimeout(() => peers.forEach((peer) => peer.leave()), 1000 * Math.min(within_s, 1)); // Handlers have ended already.
  setTimeout(process.exit, 1000 * Math.min(within_s, 1.3), 0);
}

// Sections 2 to 6: data connections. A conversation yields how many bytes it wants next, and is given these.
function serve(socket, isMaster) {
  const peer = { isMaster, isOpen: false, granted: 0, received: 0, heldBytes: 0 };
  peer.say = (type, value) => socket.writable && socket.write(frame(type, pack(value)));
  peer.leave = (reason = {}) => {
    peer.say(GOODBYE, reason); // What comes now is read and forgotten, because a reset would take this back.
    socket.end().removeAllListeners('readable').resume();
    setTimeout(() => socket.destroy(), 250);
  };
  const talk = conversation(peer);
  let wanted = talk.next().value;
  socket.on('readable', () => { // There is less than what was wanted when the stream has ended.
    for (let bytes; (bytes = socket.read(wanted)) && bytes.length === wanted; ) wanted = talk.next(bytes).value;
  });
  socket.setNoDelay().setKeepAlive(true, 10_000).on('error', () => {}).on('close', () => peers.delete(peer));
  setTimeout(() => peer.isOpen || socket.destroy(), 10_000);
  peers.add(peer);
  return peer;
}
function* conversation(peer) {
  try {
    for (let type; type !== GOODBYE; grant()) {
      const head = yield 40;
      const [version, length] = [head.toString('latin1', 0, 3), head.readUInt32BE(8)];
      must(version === 'HI\x01' && length <= (peer.isOpen ? 262_144 : 16_384), 'This is no frame of version 1.');
      const section = length ? unpack(yield length) : {};
      type = head[3];
      if (type === HELLO && !peer.isOpen) peer.isOpen = peer.isMaster || admit(peer, section);
      else if (type === MESSAGE && peer.isOpen) yield* receive(peer, head, section);
      else if (type === DEPTH && peer.isMaster) [depth] = section;
      else must(type === GOODBYE || (type === DRAIN && peer.isOpen), `A frame of type ${type} has no place here.`);
    }
    peer.leave();
  } catch (error) {
    peer.leave({ code: error.goodbye ?? 'protocol', text: error.message });
  }
}
function grant() {
  for (const peer of peers) {
    if (!peer.isOpen || peer.granted > peer.received || (depth > 0 && !peer.isMaster)) continue; // Backlog goes first.
    peer.granted = peer.received + 1;
    peer.say(CREDIT, [peer.granted, 0]); // Of no bytes: who has no unanswered message may send one of any size.
  }
}
function dialMaster() {
  const socket = net.connect(given.master_data);
  serve(socket, true).say(HELLO, { ...introduction, worker: given.worker, ticket: given.ticket });
  socket.on('close', () => {
    depth = 0; // Connectors may send, as nothing is known of the backlog.
    grant();
    setTimeout(dialMaster, 2000 * Math.random());
  });
}

// Section 12: who is let in.
function admit(peer, { role, versions, stream: asked, source, ticket = '' }) {
  const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
  const decoded = (text) => Buffer.from(text, 'base64url');
  must(versions.includes(1), 'This engine speaks version 1.');
  const [, text, proof] = ticket.match(/^(.*)\.(.*)$/) ?? ['', '', ''];
  const right = hmac(hmac(Buffer.from(given.key, 'hex'), 'harmonicio.ticket.lease'), text);
  must(decoded(proof).length === 32 && crypto.timingSafeEqual(decoded(proof), right), 'No ticket.', 'not_allowed');
  const claims = JSON.parse(text[0] === '.' ? zlib.inflateSync(decoded(text.slice(1))) : decoded(text));
  const age_s = Date.now() / 1000 - claims.issued_at;
  const isOurs = claims.kind === 'lease' && claims.stream === stream && claims.engine === engine && asked === stream;
  must(isOurs && role === 'connector' && source && claims.source === source, "It is another's.", 'not_allowed');
  must(age_s > -900 && age_s < claims.term_s + 900 && claims.epoch >= epoch, 'The ticket has ended.', 'not_allowed');
  peer.epoch = claims.epoch;
  peer.say(HELLO, introduction);
  return true;
}

// Sections 4 and 5: messages.
function* receive(peer, head, { id = head.toString('hex', 24), metadata = {} }) {
  const [flags, size, number] = [head.readUInt16BE(4), Number(head.readBigUInt64BE(16)), peer.received];
  must((flags & ~3) === 0, `A message came with the flags ${flags}.`);
  const free = [...peers].reduce((left, each) => left - each.heldBytes, budget);
  const refusals = { too_large: size > max_message_bytes, no_credit: number >= peer.granted, storage: size > free };
  let [reason, payload] = [Object.keys(refusals).find((each) => refusals[each]), Buffer.alloc(0)];
  if (reason) for (let left = size; left > 0; left -= 65_536) yield Math.min(left, 65_536);
  else if (size) payload = yield (peer.heldBytes = size);
  if (report.state === 'draining') reason = 'draining';
  const refusal = [REJECTED, { reason, text: `A message of ${size} bytes was not taken.` }];
  const [kind, detail] = reason ? refusal : outcomeOf(id, payload, metadata);
  peer.say(OUTCOMES, [[kind, number, number, detail]]);
  Object.assign(peer, { received: number + 1, heldBytes: 0 });
}
function outcomeOf(id, payload, metadata) {
  tell({ state: 'busy', running: [{ message: id, running_s: 0 }] });
  try {
    const result = handle(payload, metadata);
    must(pack(result, 60).length <= 65_536, 'The result is larger than 64 KiB.');
    return [DONE, result];
  } catch (thrown) {
    const { name, message, stack, retryable = true } = thrown instanceof Error ? thrown : new Error(String(thrown));
    return [FAILED, { type: name, text: message.slice(0, 4000), traceback: stack.slice(0, 12_000), retryable }];
  } finally {
    tell({ running: [], handled: report.handled + 1 });
    quiet.refresh();
  }
}

// Section 2: bytes.
const uint32 = (number) => Buffer.of(number >> 24, number >> 16, number >> 8, number);
const sized = (start, length, parts) => Buffer.concat([Buffer.from(start), uint32(length), ...parts]);
const frame = (type, section) => sized([72, 73, 1, type, 0, 0, 0, 0], section.length, [Buffer.alloc(28), section]);
function pack(value, levels = 64) {
  must(levels >= 0, 'A value is nested too deeply.');
  const all = (values) => values.map((each) => pack(each, levels - 1));
  if (value === null || value === undefined) return Buffer.of(0xc0);
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'string') return sized([0xdb], Buffer.byteLength(value), [Buffer.from(value)]);
  if (Array.isArray(value)) return sized([0xdd], value.length, all(value));
  if (typeof value === 'object') return sized([0xdf], Object.keys(value).length, all(Object.entries(value).flat()));
  if (Number.isSafeInteger(value)) return sized([0xd3], Math.floor(value / 2 ** 32), [uint32(value)]);
  const double = Buffer.alloc(9, 0xcb);
  double.writeDoubleBE(value, 1);
  return double;
}
function unpack(bytes) {
  let at = 0;
  const take = (length) => bytes.subarray(at, (at += length));
  const text = (length, encoding = 'utf8') => take(length).toString(encoding);
  const uint = (n) => Number(`0x${text(2 ** n, 'hex')}`);
  const int = (n) => Number(BigInt.asIntN(8 << n, `0x${text(2 ** n, 'hex')}`));
  const times = function* (length, item) { while (length-- > 0) yield item(); };
  const list = (length) => [...times(length, value)];
  const map = (length) => Object.fromEntries(times(length, () => [value(), value()]));
  const refuse = () => must(false, 'A header section holds what has no place there.');
  const kinds = [ // From which code on which kind is meant; n is how far from there a code is.
    [0x00, (n) => n], [0x80, map], [0x90, list], [0xa0, (n) => text(n)], [0xc0, () => null], [0xc1, refuse],
    [0xc2, (n) => n === 1], [0xc4, (n) => take(uint(n))], [0xc7, refuse], [0xca, () => take(4).readFloatBE()],
    [0xcb, () => take(8).readDoubleBE()], [0xcc, uint], [0xd0, int], [0xd4, refuse], [0xd9, (n) => text(uint(n))],
    [0xdc, (n) => list(uint(n + 1))], [0xde, (n) => map(uint(n + 1))], [0xe0, (n) => n - 32],
  ];
  const kindOf = (code) => kinds.findLast(([first]) => first <= code);
  const value = (code = bytes.readUInt8(at++), [first, read] = kindOf(code)) => read(code - first);
  const whole = value();
  must(at === bytes.length, 'A header section is not one value.');
  return whole;
}

const orphaned = setTimeout(() => drain(timeout_s), 1000 * given.orphan_after_s); // Each report begins that anew.
const quiet = setTimeout(() => report.state === 'busy' && tell({ state: 'idle' }), 50); // Each message does.
const server = net.createServer((socket) => serve(socket, false));
server.listen(given.listen_port ?? 0, given.listen_host, () => {
  tell({ state: 'idle', address: { host: given.listen_host, port: server.address().port } });
  dialMaster();
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => (report.address ? drain(30) : process.exit(0)));
setInterval(tell, 1000 * Math.min(1, timeout_s / 4));
dialController();
