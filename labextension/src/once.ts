/** Kernel websockets that keep to themselves what their client has had from an earlier one. */

import { Had } from './had.js';
import { type Data, idOf, sizeOf } from './messages.js';

/**
 * Return a class of websockets that do this.
 *
 * The server sends again what it does not know to have arrived before a connection was lost.
 * A client is known by its `onmessage`: JupyterLab's kernel connections set the same function on
 * each websocket that they open.  So what nobody was there to handle is not kept from anybody,
 * and what is remembered of a client goes with it.
 */
export function onceOnly(Base: typeof WebSocket): typeof WebSocket {
  const clients = new WeakMap<object, Had>();

  return class extends Base {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols);
      // Listeners are called in the order in which they come, and the client's comes later.
      this.addEventListener('message', (event: MessageEvent<Data>) => {
        const client = this.onmessage;
        const id = idOf(event.data, this.protocol);
        if (client === null || id === undefined) {
          return;
        }
        let had = clients.get(client);
        if (had === undefined) {
          had = new Had();
          clients.set(client, had);
        }
        if (had.before(this, id, sizeOf(event.data))) {
          event.stopImmediatePropagation();
        }
      });
    }
  };
}
