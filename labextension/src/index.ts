/** JupyterLab's kernel manager, to which nothing that a kernel says comes twice. */

import type { Kernel, ServiceManagerPlugin } from '@jupyterlab/services';
import {
  IConnectionStatus,
  IKernelManager,
  IServerSettings,
  KernelManager,
  ServerConnection
} from '@jupyterlab/services';

import { onceOnly } from './once.js';

/** In place of `@jupyterlab/services-extension:kernel-manager`, and otherwise the same. */
const kernelManager: ServiceManagerPlugin<Kernel.IManager> = {
  id: 'backendai-jupyter:kernel-manager',
  description: 'Provides kernels whose messages come once.',
  autoStart: true,
  provides: IKernelManager,
  optional: [IServerSettings, IConnectionStatus],
  activate: (
    _: null,
    given: ServerConnection.ISettings | null,
    status: IConnectionStatus | null
  ): Kernel.IManager => {
    const settings = given ?? ServerConnection.makeSettings();
    return new KernelManager({
      serverSettings: { ...settings, WebSocket: onceOnly(settings.WebSocket) },
      standby: () => !status?.isConnected || 'when-hidden'
    });
  }
};

export default kernelManager;
