// What Go users do to a broker, with the three clients that they use: in two parts, with a restart of the broker in
// between.
//
// Arguments: franz|sarama|segmentio first|second BOOTSTRAP TOPIC. Exits with 0 only if everything held.
package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

const (
	partitions     = 3
	perCodec       = 200
	firstTimestamp = int64(1_700_000_000_000)
	deadline       = 120 * time.Second
	requestTimeout = 60 * time.Second
)

var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// total is how many records the first part produces.
var total = len(codecs) * perCodec

// scenario is one client's; every step panics with what did not hold.
type scenario interface {
	// create makes the topic, makes it once more in vain, and describes it and its configs.
	create(ctx context.Context)
	// produce sends the records [from, from+count), each to the partition number % partitions.
	produce(ctx context.Context, codec string, from, count int)
	// read gives the first count records of all partitions, each partition's in order, and checks the end offsets.
	read(ctx context.Context, count int) []record
	// offsetByTime gives the offset of the first record of the partition that is not older.
	offsetByTime(ctx context.Context, partition int, timestamp int64) int64
	// rebalance has two members share the topic, and one of them leave again.
	rebalance(ctx context.Context)
	// consume has a member of the group read count records and commit behind them.
	consume(ctx context.Context, count int) []record
	// committed gives the group's offset for each partition.
	committed(ctx context.Context) []int64
	// remove deletes the topic and sees that it is gone.
	remove(ctx context.Context)
}

func main() {
	name, part, bootstrap, topic := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	var client scenario
	switch name {
	case "franz":
		client = newFranz(bootstrap, topic)
	case "sarama":
		client = newSarama(bootstrap, topic)
	case "segmentio":
		client = newSegmentio(bootstrap, topic)
	default:
		panic(name)
	}
	switch part {
	case "first":
		first(ctx, client)
	case "second":
		second(ctx, client)
	default:
		panic(part)
	}
	fmt.Printf("%s %s: ok\n", name, part)
}

func first(ctx context.Context, client scenario) {
	client.create(ctx)
	for i, codec := range codecs {
		client.produce(ctx, codec, i*perCodec, perCodec)
	}
	verify(client.read(ctx, total), total)
	// Partition 1 holds records 1, 4, 7, …: the first at or after number 500 is 502, at offset 167.
	found := client.offsetByTime(ctx, 1, firstTimestamp+500)
	check(found == 167, "offset by time: %d", found)
	client.rebalance(ctx)
	verify(client.consume(ctx, total), total)
}

func second(ctx context.Context, client scenario) {
	sum := int64(0)
	for _, offset := range client.committed(ctx) {
		sum += offset
	}
	check(sum == int64(total), "committed offsets cover what was consumed: %d", sum)
	client.produce(ctx, "lz4", total, perCodec)
	for _, fresh := range client.consume(ctx, perCodec) {
		check(fresh.number() >= total, "the group resumes where it committed, not at %d", fresh.number())
	}
	verify(client.read(ctx, total+perCodec), total+perCodec)
	client.remove(ctx)
}
