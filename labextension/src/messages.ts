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
  const frame = data as ArrayBuffer;
  const view = new DataView(frame);
  const [start, end] = [view.getBigUint64(16, true), view.getBigUint64(24, true)];
  return parse(frame.slice(Number(start), Number(end)));
}

/** Text is JSON; else `count`, `offset` ... as big-endian 32-bit integers, the first part JSON. */
function headerOfLegacy(data: Data): unknown {
  let message: unknown;
  if (typeof data === 'string') {
    message = JSON.parse(data);
  } else {
    const view = new DataView(data);
    message = parse(data.slice(view.getUint32(4), view.getUint32(8)));
  }
  return (message as { header?: unknown }).header;
}

function parse(json: ArrayBuffer): unknown {
  return JSON.parse(decoder.decode(json));
}

const decoder = new TextDecoder();
