/** As much as must be known of the messages on a kernel websocket, in either of its protocols. */

export type Data = string | ArrayBuffer;

const V1 = 'v1.kernel.websocket.jupyter.org';

/** Return what the server counts for a message. */
export function sizeOf(data: Data): number {
  return typeof data === 'string' ? data.length : data.byteLength;
}

/** Return the `msg_id` of a message; undefined where there is none. */
export function idOf(data: Data, protocol: string): string | undefined {
  try {
    const header = protocol === V1 ? headerOfV1(data) : headerOfLegacy(data);
    const id = (header as { msg_id?: unknown }).msg_id;
    return typeof id === 'string' ? id : undefined;
  } catch {
    return undefined; // who reads all of it will say what is wrong
  }
}

/** `count`, `offset` ... as little-endian 64-bit integers; the parts are channel, header, ... */
function headerOfV1(data: Data): unknown {
  const view = new DataView(data as ArrayBuffer);
  const [start, end] = [2, 3].map(i => Number(view.getBigUint64(8 * i, true)));
  return parse(data as ArrayBuffer, start, end);
}

/** Text is JSON; else `count`, `offset` ... as big-endian 32-bit integers, the first part JSON. */
function headerOfLegacy(data: Data): unknown {
  if (typeof data === 'string') {
    return (JSON.parse(data) as { header?: unknown }).header;
  }
  const view = new DataView(data);
  const [start, end] = [1, 2].map(i => view.getUint32(4 * i));
  return (parse(data, start, end) as { header?: unknown }).header;
}

function parse(data: ArrayBuffer, start: number | undefined, end: number | undefined): unknown {
  return JSON.parse(decoder.decode(data.slice(start, end)));
}

const decoder = new TextDecoder();
