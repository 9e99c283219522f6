#!/usr/bin/env bash
# Set everything up, then run every check and every test.  Arguments go to pytest.
source "$(dirname "$0")/lib.sh"

scripts/lint.sh
if [ -d labextension/lib ]; then
  npm --prefix labextension --silent test
fi
need dockerd=docker.io iptables=iptables ip=iproute2 debootstrap=debootstrap bwrap=bubblewrap \
  chromium=chromium redis-server=redis-server etcd=etcd-server initdb=postgresql \
  nginx=nginx-light cc=build-essential docker-registry=docker-registry \
  faketime=faketime ||
  say "the tests that need them will fail"
pytest() { .venv/bin/python -m pytest "$@"; }
if [ $# -gt 0 ]; then
  pytest "$@"
else
  # Most of the time is spent waiting for servers, engines and the like: files are shared out
  # among more processes than there need be processors.
  pytest --ignore tests/browser -n 3 --dist loadfile && others=0 || others=$?
  # Alone: a browser drops its requests when another test adds a network to the machine.
  pytest tests/browser
  exit "$others"  # one failure hides no other
fi
