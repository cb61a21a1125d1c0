#!/bin/sh
# Installs what the load driver runs beside Rumi (squid, Caddy, nginx, bsdtar) where it is missing and can be had: as root, on a Debian.
# None of them is started, and none is needed: the table says of one that is absent that it is.
set -eu

missing=
for tool in squid caddy nginx:nginx-light bsdtar:libarchive-tools; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "bench: not installed:$missing; what they would be compared with is measured alone" >&2
  exit 0
fi
echo "bench: installing$missing" >&2

# What Debian asks before it starts a service that it has installed: no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086 # a list
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
