#!/usr/bin/env bash
# What a kcat user does to a broker: scenario.sh first|second BOOTSTRAP TOPIC
set -euo pipefail
phase=$1 bootstrap=$2 topic=$3

# Its time-out for metadata and offsets is 5 s otherwise.
kcat() { command kcat -m 60 "$@"; }
fail() { echo "kcat $phase: $*" >&2; exit 1; }
lines() { seq "$1" "$2" | sed 's/.*/key-&:value &/'; }
consume() { kcat -b "$bootstrap" -C -t "$topic" -p 0 -o beginning -e -q -f '%k:%s\n'; }

case $phase in
first)
  # The first produce creates the topic.
  from=1
  for codec in none gzip snappy lz4; do
    lines $from $((from + 99)) | kcat -b "$bootstrap" -P -t "$topic" -p 0 -K : -z "$codec" -X acks=all
    from=$((from + 100))
  done
  kcat -b "$bootstrap" -L -t "$topic" | grep -q "topic \"$topic\" with [1-9]" || fail "the topic is listed"
  diff <(lines 1 400) <(consume) || fail "what was produced is what is consumed"
  [ "$(kcat -b "$bootstrap" -Q -t "$topic:0:-1" | sed 's/.*offset //')" = 400 ] || fail "the end offset is 400"
  [ "$(kcat -b "$bootstrap" -Q -t "$topic:0:1" | sed 's/.*offset //')" = 0 ] || fail "the first offset by time is 0"
  # A group that reads 400 records and commits when it leaves.
  kcat -b "$bootstrap" -G "$topic-group" -X auto.offset.reset=earliest -c 400 -q -f '%s\n' "$topic" | wc -l |
    grep -qx 400 || fail "the group reads everything"
  ;;
second)
  lines 401 450 | kcat -b "$bootstrap" -P -t "$topic" -p 0 -K : -z lz4 -X acks=1
  kcat -b "$bootstrap" -G "$topic-group" -X auto.offset.reset=earliest -c 50 -q -f '%k:%s\n' "$topic" |
    diff <(lines 401 450) - || fail "the group resumes where it left off"
  diff <(lines 1 450) <(consume) || fail "everything is there after the restart"
  ;;
*) fail "no such phase" ;;
esac
echo "kcat $phase: ok"
