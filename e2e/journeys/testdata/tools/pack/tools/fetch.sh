#!/bin/sh
# fetch.sh {ACTION URL}...: does each with curl or git, and prints what came of it, with the tool's exit status where it
# was not 0.

report() { # ACTION URL STATUS TEXT
  if [ "$3" -eq 0 ]; then echo "$1 $2: $4"; else echo "$1 $2: exit $3 $4"; fi
}
flat() { tr '\n' ' ' | sed 's/ *$//'; }
fetch() { curl --silent --show-error --max-time 60 --fail-with-body "$@"; }
head -c 1048576 /dev/zero | tr '\0' x >/tmp/body

while [ $# -gt 0 ]; do
  action=$1 url=$2
  shift 2
  case $action in
    get) out=$(fetch "$url" 2>&1) && status=0 || status=$? ;;
    post) out=$(fetch --data-binary @/tmp/body "$url" 2>&1) && status=0 || status=$? ;;
    download) out=$(fetch --output /dev/null --write-out '%{size_download} bytes' "$url" 2>&1) && status=0 || status=$? ;;
    direct) out=$(fetch --noproxy '*' "$url" 2>&1) && status=0 || status=$? ;;
    events)
      # The second event is sent only when the first has arrived.
      out=$(fetch --no-buffer "$url" | {
        read -r _ first; read -r _; fetch "${url%/events}/next"; read -r _ second; echo "$first $second"
      }) && status=0 || status=$?
      ;;
    clone)
      rm -rf /tmp/clone
      out=$(git clone --quiet "$url" /tmp/clone 2>&1) && status=0 || status=$?
      [ "$status" -ne 0 ] || out="$(stat -c %s /tmp/clone/noise) bytes of noise"
      ;;
    push)
      # Not over HTTP/2: Debian's libcurl 7.88 now and then stops in the middle of an upload of unknown length, without a proxy, too.
      cd /tmp/clone
      head -c 3145728 /dev/urandom >more
      out=$(git add more && git -c user.name=t -c user.email=t@rumi.test commit --quiet --message more && git -c http.version=HTTP/1.1 -c http.postBuffer=16m push --quiet "$url" HEAD:refs/heads/more 2>&1 &&
        git ls-remote "$url" refs/heads/more | cut -f 2) && status=0 || status=$?
      cd /
      ;;
  esac
  report "$action" "$url" "$status" "$(echo "$out" | flat)"
done
