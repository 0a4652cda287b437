# Starts and stops the brokers that a load is put on. Sourced by the scripts beside it.
#
#   start_ottla DIR PORT [OPTION…]     an empty DIR; ottla's options
#   start_ottla_on URL DIR PORT [OPTION…]  the same with another store than a directory inside
#   start_kafka DIR PORT [KEY=VALUE…]  an empty DIR; Kafka's, of one KRaft node
#   start_moto DIR PORT                an S3 server with the bucket `bench`
#   stop PID
#   evict DIR                          no byte of its files is in the page cache any more
#
# Each that starts something leaves the process's id in $pid.

ottla=${OTTLA:-target/release/ottla}
kafka_jars=${KAFKA_JARS:-.test/kafka-tools/lib} # by ./test --install

wait_for_port() {
  local port=$1 pid=$2 log=$3
  until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || { cat "$log" >&2; return 1; }
    sleep 0.05
  done
}

start_ottla() {
  local dir=$1 port=$2
  shift 2
  start_ottla_on "file:$dir/store" "$dir" "$port" "$@"
}

start_ottla_on() {
  local store=$1 dir=$2 port=$3
  shift 3
  mkdir -p "$dir"
  "$ottla" serve --listen "127.0.0.1:$port" --store "$store" "$@" >>"$dir/log" 2>&1 &
  pid=$!
  wait_for_port "$port" "$pid" "$dir/log"
}

# With the heap and the collector of Kafka's own start script.
start_kafka() {
  local dir=$1 port=$2 setting
  shift 2
  mkdir -p "$dir"
  {
    echo "process.roles=broker,controller"
    echo "node.id=1"
    echo "controller.quorum.voters=1@127.0.0.1:$((port + 1))"
    echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
    echo "controller.listener.names=CONTROLLER"
    echo "log.dirs=$dir/logs"
    echo "offsets.topic.replication.factor=1"
    echo "transaction.state.log.replication.factor=1"
    echo "transaction.state.log.min.isr=1"
    echo "group.initial.rebalance.delay.ms=0"
    for setting in "$@"; do echo "$setting"; done
  } >"$dir/server.properties"
  local java=(java -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$kafka_jars/*")
  "${java[@]}" kafka.tools.StorageTool format --cluster-id "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 1-22)" \
    --config "$dir/server.properties" >"$dir/format.log" 2>&1 || { cat "$dir/format.log" >&2; return 1; }
  "${java[@]}" -server -Xms1G -Xmx1G -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
    -XX:+ExplicitGCInvokesConcurrent kafka.Kafka "$dir/server.properties" >"$dir/log" 2>&1 &
  pid=$!
  wait_for_port "$port" "$pid" "$dir/log"
}

start_moto() {
  local dir=$1 port=$2
  mkdir -p "$dir"
  .test/venv/bin/python broker/tests/clients/python/s3_server.py "$port" bench >"$dir/moto.log" 2>&1 &
  pid=$!
  wait_for_port "$port" "$pid" "$dir/moto.log"
}

evict() {
  python3 - "$1" <<'PYTHON'
import os, sys

for parent, _, files in os.walk(sys.argv[1]):
    for name in files:
        file = os.open(os.path.join(parent, name), os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
PYTHON
}

stop() {
  kill "$1"
  wait "$1" 2>/dev/null || true
}
