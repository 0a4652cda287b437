package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz is github.com/twmb/franz-go: topic ids, idempotence by default, cooperative groups.
type franz struct{ bootstrap, topic, group string }

func newFranz(bootstrap, topic string) scenario { return franz{bootstrap, topic, topic + "-group"} }

func (f franz) client(options ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(f.bootstrap), kgo.RequestTimeoutOverhead(requestTimeout)}, options...)...)
	must(err)
	return client
}

func (f franz) admin() *kadm.Client { return kadm.NewClient(f.client()) }

func (f franz) create(ctx context.Context) {
	admin := f.admin()
	defer admin.Close()
	retention := "86400000"
	configs := map[string]*string{"retention.ms": &retention}
	created, err := admin.CreateTopic(ctx, partitions, -1, configs, f.topic)
	must(err)
	check(created.NumPartitions == partitions && created.ID != kadm.TopicID{}, "created: %+v", created)
	_, err = admin.CreateTopic(ctx, partitions, -1, configs, f.topic)
	check(errors.Is(err, kerr.TopicAlreadyExists), "a second topic of the name: %v", err)
	topics, err := admin.ListTopics(ctx, f.topic)
	must(err)
	check(len(topics[f.topic].Partitions) == partitions && topics[f.topic].ID == created.ID, "described: %+v", topics)
	described, err := admin.DescribeTopicConfigs(ctx, f.topic)
	must(err)
	found := false
	for _, config := range described[0].Configs {
		found = found || config.Key == "retention.ms" && config.MaybeValue() == retention
	}
	check(found, "the topic's own config: %+v", described)
}

func (f franz) produce(ctx context.Context, codec string, from, count int) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	client := f.client(
		kgo.DefaultProduceTopic(f.topic),
		kgo.ProducerBatchCompression(codecs[codec]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(5*time.Millisecond),
	)
	defer client.Close()
	var records []*kgo.Record
	for i := from; i < from+count; i++ {
		r := sent(i)
		out := &kgo.Record{Partition: int32(r.partition), Timestamp: time.UnixMilli(r.timestamp), Key: r.key, Value: r.value}
		for _, h := range r.headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.key, Value: h.value})
		}
		records = append(records, out)
	}
	for _, result := range client.ProduceSync(ctx, records...) {
		must(result.Err)
		want := sent(from).offset
		check(result.Record.Offset >= want, "offset %d before %d", result.Record.Offset, want)
	}
}

func (f franz) read(ctx context.Context, count int) []record {
	offsets := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	client := f.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{f.topic: offsets}))
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(ctx, f.topic)
	must(err)
	sum := int64(0)
	ends.Each(func(end kadm.ListedOffset) { must(end.Err); sum += end.Offset })
	check(sum == int64(count), "end offsets: %d", sum)
	return f.poll(ctx, client, count)
}

func (f franz) poll(ctx context.Context, client *kgo.Client, count int) []record {
	var records []record
	for len(records) < count {
		fetches := client.PollFetches(ctx)
		must(fetches.Err())
		fetches.EachRecord(func(in *kgo.Record) {
			r := record{int(in.Partition), in.Offset, in.Timestamp.UnixMilli(), in.Key, in.Value, nil}
			for _, h := range in.Headers {
				r.headers = append(r.headers, header{h.Key, h.Value})
			}
			records = append(records, r)
		})
	}
	return records
}

func (f franz) offsetByTime(ctx context.Context, partition int, timestamp int64) int64 {
	admin := f.admin()
	defer admin.Close()
	listed, err := admin.ListOffsetsAfterMilli(ctx, timestamp, f.topic)
	must(err)
	found, _ := listed.Lookup(f.topic, int32(partition))
	must(found.Err)
	return found.Offset
}

func (f franz) rebalance(ctx context.Context) {
	one, two := f.member(ctx), f.member(ctx)
	wait(ctx, "both members share the topic", func() bool {
		a, b := one.holds(), two.holds()
		both := maps.Clone(a)
		maps.Copy(both, b)
		return len(a) > 0 && len(b) > 0 && len(a)+len(b) == partitions && len(both) == partitions
	})
	admin := f.admin()
	defer admin.Close()
	described, err := admin.DescribeGroups(ctx, f.group)
	must(err)
	group := described[f.group]
	check(group.State == "Stable" && len(group.Members) == 2 && group.Protocol == "cooperative-sticky", "described: %+v", group)
	two.leave()
	wait(ctx, "the other takes over", func() bool { return len(one.holds()) == partitions })
	one.leave()
	groups, err := admin.ListGroups(ctx)
	must(err)
	check(groups[f.group].ProtocolType == "consumer", "listed: %+v", groups)
}

// franzMember polls, and throws away what it reads, until it leaves.
type franzMember struct {
	client *kgo.Client
	mutex  sync.Mutex
	held   map[int32]bool
	done   chan struct{}
}

func (f franz) member(ctx context.Context) *franzMember {
	member := &franzMember{held: map[int32]bool{}, done: make(chan struct{})}
	note := func(holds bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, changed map[string][]int32) {
			member.mutex.Lock()
			defer member.mutex.Unlock()
			for _, partition := range changed[f.topic] {
				if holds {
					member.held[partition] = true
				} else {
					delete(member.held, partition)
				}
			}
		}
	}
	member.client = f.client(
		kgo.ConsumerGroup(f.group), kgo.ConsumeTopics(f.topic), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(60*time.Second), kgo.HeartbeatInterval(100*time.Millisecond),
		kgo.OnPartitionsAssigned(note(true)), kgo.OnPartitionsRevoked(note(false)), kgo.OnPartitionsLost(note(false)),
	)
	go func() {
		defer close(member.done)
		for !member.client.PollFetches(ctx).IsClientClosed() && ctx.Err() == nil {
		}
	}()
	return member
}

func (m *franzMember) holds() map[int32]bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return maps.Clone(m.held)
}

func (m *franzMember) leave() {
	m.client.Close()
	<-m.done
}

func (f franz) consume(ctx context.Context, count int) []record {
	client := f.client(
		kgo.ConsumerGroup(f.group), kgo.ConsumeTopics(f.topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(60*time.Second), kgo.HeartbeatInterval(100*time.Millisecond),
	)
	defer client.Close()
	records := f.poll(ctx, client, count)
	must(client.CommitUncommittedOffsets(ctx))
	return records
}

func (f franz) committed(ctx context.Context) []int64 {
	admin := f.admin()
	defer admin.Close()
	fetched, err := admin.FetchOffsets(ctx, f.group)
	must(err)
	offsets := make([]int64, partitions)
	for p := range offsets {
		offset, found := fetched.Lookup(f.topic, int32(p))
		check(found && offset.Err == nil, "partition %d is committed: %+v", p, fetched)
		offsets[p] = offset.At
	}
	return offsets
}

func (f franz) remove(ctx context.Context) {
	admin := f.admin()
	defer admin.Close()
	_, err := admin.DeleteTopic(ctx, f.topic)
	must(err)
	topics, err := admin.ListTopics(ctx)
	must(err)
	check(!topics.Has(f.topic), "a deleted topic is gone: %v", topics.Names())
	_, err = admin.DeleteTopic(ctx, f.topic)
	check(errors.Is(err, kerr.UnknownTopicOrPartition), "deleted twice: %v", err)
}

// wait polls for a condition that other goroutines bring about.
func wait(ctx context.Context, what string, condition func() bool) {
	for !condition() {
		check(ctx.Err() == nil, "in vain: %s", what)
		time.Sleep(20 * time.Millisecond)
	}
}
