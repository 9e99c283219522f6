"""One agent of a cluster: /etc/jupyter/backendai_agent_config.py, with each node's own address."""

c = get_config()

c.BackendAIAgent.redis_url = "rediss://backendai@10.0.0.5?passwordfile=/etc/backendai/redis-password&cacert=/etc/backendai/tls/ca.crt"
c.BackendAIAgent.etcd_url = "etcds://backendai@10.0.0.5?passwordfile=/etc/backendai/etcd-password&cacert=/etc/backendai/tls/ca.crt"
c.BackendAIAgent.cluster_secret_file = "/etc/backendai/secret"
c.BackendAIAgent.vfolder_hosts = {"nfs": "/mnt/vfroot/nfs"}

c.BackendAIAgent.relay_bind = "10.0.0.11"
c.BackendAIAgent.state_dir = "/var/lib/backendai-agent"
c.BackendAIAgent.runtime_dir = "/run/backendai-agent"
