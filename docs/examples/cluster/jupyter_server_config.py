"""One manager of a cluster: /etc/jupyter/jupyter_server_config.py, the same on all of them."""

c = get_config()

c.BackendAI.database_url = "postgresql://backendai@10.0.0.5/backendai?passfile=/etc/backendai/pgpass&sslmode=verify-full&sslrootcert=/etc/backendai/tls/ca.crt"
c.BackendAI.redis_url = "rediss://backendai@10.0.0.5?passwordfile=/etc/backendai/redis-password&cacert=/etc/backendai/tls/ca.crt"
c.BackendAI.etcd_url = "etcds://backendai@10.0.0.5?passwordfile=/etc/backendai/etcd-password&cacert=/etc/backendai/tls/ca.crt"
c.BackendAI.cluster_secret_file = "/etc/backendai/secret"
c.BackendAI.vfolder_hosts = {"nfs": "/mnt/vfroot/nfs"}

# Behind nginx: the address is another machine's, and every manager must accept the same log-in.
c.ServerApp.ip = "10.0.0.1"
c.ServerApp.allow_remote_access = True
c.ServerApp.trust_xheaders = True
c.ServerApp.cookie_secret_file = "/etc/backendai/cookie-secret"
