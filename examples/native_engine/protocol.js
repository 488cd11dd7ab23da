// The bytes of docs/protocol.md: frames, the msgpack in them, and tickets. Nothing here reads, writes or waits.
'use strict';
const [crypto, zlib] = ['crypto', 'zlib'].map((name) => require(name));

const [HELLO, CREDIT, DEPTH, MESSAGE, OUTCOMES, DRAIN, GOODBYE] = [1, 2, 3, 4, 5, 8, 9];
const [DONE, FAILED, REJECTED] = [2, 3, 4];

/** Return a frame without payload (section 2). */
function frame(type, value) {
  const [head, section] = [Buffer.alloc(40), pack(value)];
  head.write('HI\x01');
  head[3] = type;
  head.writeUInt32BE(section.length, 8);
  return Buffer.concat([head, section]);
}

/** Return what the 40 bytes say that open a frame. */
function opening(head) {
  if (head.toString('latin1', 0, 3) !== 'HI\x01') throw new Error('This is no frame of version 1.');
  const [type, length, size] = [head[3], head.readUInt32BE(8), Number(head.readBigUInt64BE(16))];
  if (length > 262_144 || size > (type === MESSAGE ? 2 ** 62 : 0)) throw new Error('A frame is beyond the limits.');
  return { type, length, size, flags: head.readUInt16BE(4), id: head.toString('hex', 24) };
}

/** Return the claims of a lease ticket that was signed with the engine's key, or null (section 12). */
function claimsOf(ticket, keyInHex) {
  const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
  const [text, proof] = [ticket.slice(0, ticket.lastIndexOf('.')), ticket.slice(ticket.lastIndexOf('.') + 1)];
  const right = hmac(hmac(Buffer.from(keyInHex, 'hex'), 'harmonicio.ticket.lease'), text);
  const shown = Buffer.from(proof, 'base64url');
  if (shown.length !== right.length || !crypto.timingSafeEqual(shown, right)) return null;
  const json = Buffer.from(text.replace('.', ''), 'base64url');
  return JSON.parse(text[0] === '.' ? zlib.inflateSync(json) : json);
}

/** Return null, a boolean, a number, text, a list or a plain object as msgpack, in few of its forms. */
function pack(value, depth = 0) {
  if (depth > 60) throw unsendable('A value is nested too deeply to be sent.');
  const inner = (each) => pack(each, depth + 1);
  if (value === null || value === undefined) return Buffer.of(0xc0);
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'string') return sized(0xdb, Buffer.byteLength(value), [Buffer.from(value)]);
  if (Array.isArray(value)) return sized(0xdd, value.length, value.map(inner));
  if (typeof value === 'object') return sized(0xdf, Object.keys(value).length, Object.entries(value).flat().map(inner));
  if (typeof value !== 'number') throw unsendable(`A ${typeof value} cannot be sent.`);
  const number = Buffer.alloc(9, Number.isSafeInteger(value) ? 0xd3 : 0xcb);
  if (number[0] === 0xd3) number.writeBigInt64BE(BigInt(value), 1);
  else number.writeDoubleBE(value, 1);
  return number;
}

/** Return the error of a result that no further attempt can make sendable. */
function unsendable(text) {
  return Object.assign(new Error(text), { name: 'InvalidResult', retryable: false });
}

function sized(code, length, parts) {
  const head = Buffer.alloc(5, code);
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, ...parts]);
}

/** Return the one value that a header section holds. Its own length bounds what can be asked of us. */
function unpack(section) {
  let at = 0;
  const take = (length) => {
    if (at + length > section.length) throw new Error('A header section ends within a value.');
    return section.subarray(at, (at += length));
  };
  const uint = (length) => take(length).readUIntBE(0, length);
  const int = (length) => take(length).readIntBE(0, length);
  const text = (length) => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(take(length));
  const list = (length, item = value) => {
    if (length > section.length) throw new Error('A header section announces more than it holds.');
    return Array.from({ length }, () => item());
  };
  const map = (length) => Object.fromEntries(list(length, () => [value(), value()]));
  const value = () => {
    const code = uint(1);
    if (code < 0x80) return code;
    if (code < 0x90) return map(code & 15);
    if (code < 0xa0) return list(code & 15);
    if (code < 0xc0) return text(code & 31);
    if (code >= 0xe0) return code - 256;
    if (code === 0xc0) return null;
    if (code === 0xc2 || code === 0xc3) return code === 0xc3;
    if (code >= 0xc4 && code <= 0xc6) return take(uint(1 << (code - 0xc4)));
    if (code === 0xca) return take(4).readFloatBE();
    if (code === 0xcb) return take(8).readDoubleBE();
    if (code >= 0xcc && code <= 0xce) return uint(1 << (code - 0xcc));
    if (code === 0xcf) return Number(take(8).readBigUInt64BE());
    if (code >= 0xd0 && code <= 0xd2) return int(1 << (code - 0xd0));
    if (code === 0xd3) return Number(take(8).readBigInt64BE());
    if (code >= 0xd9 && code <= 0xdb) return text(uint(1 << (code - 0xd9)));
    if (code === 0xdc || code === 0xdd) return list(uint(2 << (code - 0xdc)));
    if (code === 0xde || code === 0xdf) return map(uint(2 << (code - 0xde)));
    throw new Error(`msgpack of type ${code} has no place here.`);
  };
  const whole = value();
  if (at !== section.length) throw new Error('A header section holds more than one value.');
  return whole;
}

module.exports = { HELLO, CREDIT, DEPTH, MESSAGE, OUTCOMES, DRAIN, GOODBYE, DONE, FAILED, REJECTED };
Object.assign(module.exports, { frame, opening, claimsOf, pack, unpack, unsendable });
