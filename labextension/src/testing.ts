/** Messages and websockets for the tests. */

import type { Data } from './messages.js';

export const V1 = 'v1.kernel.websocket.jupyter.org';

export interface IMessage {
  readonly header: { readonly msg_id: string };
}

export function message(id: string): IMessage {
  return { header: { msg_id: id } };
}

/** Return a frame as `serialize_msg_to_ws_v1` of jupyter_server makes it. */
export function v1Frame({ header }: IMessage, ...buffers: Uint8Array[]): ArrayBuffer {
  const texts = ['iopub', JSON.stringify(header), '{}', '{}', '{"text": "a"}'];
  const parts = [...texts.map(text => encoder.encode(text)), ...buffers];
  const offsets = offsetsOf(parts, 8 * (parts.length + 2));
  const view = new DataView(new ArrayBuffer(8 * (offsets.length + 1)));
  [offsets.length, ...offsets].forEach((n, i) => view.setBigUint64(8 * i, BigInt(n), true));
  return joined(view, parts);
}

/** Return a frame as `serialize_binary_message` of jupyter_server makes it. */
export function legacyFrame(content: IMessage, ...buffers: Uint8Array[]): ArrayBuffer {
  const parts = [encoder.encode(JSON.stringify(content)), ...buffers];
  const offsets = offsetsOf(parts, 4 * (parts.length + 1)).slice(0, -1);
  const view = new DataView(new ArrayBuffer(4 * (offsets.length + 1)));
  [offsets.length, ...offsets].forEach((n, i) => view.setUint32(4 * i, n));
  return joined(view, parts);
}

/** A websocket without a network. */
export class LocalSocket extends EventTarget {
  static readonly OPEN = 1;

  constructor(
    readonly url: string,
    readonly protocol = ''
  ) {
    super();
  }

  get onmessage(): Handler {
    return this.handler;
  }

  /** As a browser does: the function is called when the first one was set, among the listeners. */
  set onmessage(handler: Handler) {
    this.handler = handler;
    this.addEventListener('message', this.handle); // which is added once
  }

  receive(...data: Data[]): void {
    for (const one of data) {
      this.dispatchEvent(new MessageEvent('message', { data: one }));
    }
  }

  private handler: Handler = null;

  private readonly handle = (event: Event) => this.handler?.(event as MessageEvent);
}

type Handler = ((event: MessageEvent) => void) | null;

function offsetsOf(parts: readonly Uint8Array[], start: number): number[] {
  const offsets = [start];
  for (const part of parts) {
    offsets.push((offsets[offsets.length - 1] ?? 0) + part.length);
  }
  return offsets;
}

function joined(offsets: DataView, parts: readonly Uint8Array[]): ArrayBuffer {
  const all = [new Uint8Array(offsets.buffer), ...parts];
  const whole = new Uint8Array(all.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of all) {
    whole.set(part, at);
    at += part.length;
  }
  return whole.buffer;
}

const encoder = new TextEncoder();
