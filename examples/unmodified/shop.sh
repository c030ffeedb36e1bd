#!/bin/sh
# The shop from programs that know nothing of a mesh. Needs nginx, python3, redis-server; no root.
#
#   shop.sh up DIR                  a mesh with its state in DIR, and the shop in it, until Ctrl-C
#   shop.sh run DIR NAME PROGRAM…   one more program in it, as the workload NAME
#
# MESHWORK names the binary; LISTEN and API the control plane's addresses.
set -eu
command=$1 mesh=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
meshwork=${MESHWORK:-meshwork}
listen=${LISTEN:-127.0.0.1:15012}
api=${API:-127.0.0.1:15040}

# Puts a workload into the mesh: its name, options, --, its program.
member() {
  name=$1
  shift
  exec "$meshwork" run --name "$name" --namespace shop --control-plane "$listen" \
    --mesh "$mesh/control-plane" --state "$mesh/state/$name" "$@"
}

case $command in
up)
  mkdir -p "$mesh/web" "$mesh/redis-data"
  cp -r "$here/page" "$mesh/web/"
  "$meshwork" control-plane --config "$here/config" --state "$mesh/control-plane" --listen "$listen" --api "$api" &
  pids=$!
  # Whatever ends this ends all of it; each program is waited for.
  trap 'trap "" INT TERM; kill $pids 2>/dev/null || :; wait' EXIT
  trap 'exit 0' INT TERM
  until "$meshwork" edges --api "http://$api" >/dev/null 2>&1; do sleep 0.1; done

  (member catalog --service catalog --port 8080 -- python3 -m http.server 8080 --directory "$here/items") &
  pids="$pids $!"
  (member redis --service redis --port 6379/tcp -- \
    redis-server --protected-mode no --save '' --dir "$mesh/redis-data") &
  pids="$pids $!"
  (member web --service web --port 8080 -- nginx -e stderr -p "$mesh/web" -c "$here/nginx.conf") &
  pids="$pids $!"
  echo "the shop is up; see it from inside: $0 run $mesh customer curl http://web:8080/items/items.json" >&2
  wait
  ;;
run)
  name=$1
  shift
  member "$name" -- "$@"
  ;;
esac
