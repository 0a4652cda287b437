package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// saramaClient is github.com/IBM/sarama.
type saramaClient struct{ bootstrap, topic, group string }

func newSarama(bootstrap, topic string) scenario {
	return saramaClient{bootstrap, topic, topic + "-group"}
}

func (s saramaClient) config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Admin.Timeout, config.Producer.Timeout = requestTimeout, requestTimeout
	config.Net.ReadTimeout, config.Net.WriteTimeout = requestTimeout, requestTimeout
	config.Consumer.Group.Session.Timeout = 60 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 100 * time.Millisecond
	config.Consumer.Return.Errors = true
	return config
}

func (s saramaClient) admin() sarama.ClusterAdmin {
	admin, err := sarama.NewClusterAdmin([]string{s.bootstrap}, s.config())
	must(err)
	return admin
}

func (s saramaClient) create(context.Context) {
	admin := s.admin()
	defer admin.Close()
	retention := "86400000"
	detail := &sarama.TopicDetail{
		NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &retention},
	}
	must(admin.CreateTopic(s.topic, detail, true))
	must(admin.CreateTopic(s.topic, detail, false))
	err := admin.CreateTopic(s.topic, detail, false)
	check(errors.Is(err, sarama.ErrTopicAlreadyExists), "a second topic of the name: %v", err)
	topics, err := admin.DescribeTopics([]string{s.topic})
	must(err)
	check(len(topics) == 1 && len(topics[0].Partitions) == partitions, "described: %+v", topics)
	resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: s.topic, ConfigNames: []string{"retention.ms"}}
	configs, err := admin.DescribeConfig(resource)
	must(err)
	check(len(configs) == 1 && configs[0].Value == retention && !configs[0].Default, "the topic's own config: %+v", configs)
}

func (s saramaClient) produce(_ context.Context, codec string, from, count int) {
	config := s.config()
	codecs := map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}
	config.Producer.Compression = codecs[codec]
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	// Idempotent with every other codec.
	if from/perCodec%2 == 1 {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
	}
	producer, err := sarama.NewSyncProducer([]string{s.bootstrap}, config)
	must(err)
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for i := from; i < from+count; i++ {
		r := sent(i)
		message := &sarama.ProducerMessage{
			Topic: s.topic, Partition: int32(r.partition), Timestamp: time.UnixMilli(r.timestamp), Key: sarama.ByteEncoder(r.key),
		}
		if r.value != nil {
			message.Value = sarama.ByteEncoder(r.value)
		}
		for _, h := range r.headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.key), Value: h.value})
		}
		messages = append(messages, message)
	}
	must(producer.SendMessages(messages))
}

func received(in *sarama.ConsumerMessage) record {
	r := record{int(in.Partition), in.Offset, in.Timestamp.UnixMilli(), in.Key, in.Value, nil}
	for _, h := range in.Headers {
		r.headers = append(r.headers, header{string(h.Key), h.Value})
	}
	return r
}

func (s saramaClient) read(ctx context.Context, count int) []record {
	client, err := sarama.NewClient([]string{s.bootstrap}, s.config())
	must(err)
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	must(err)
	defer consumer.Close()
	var records []record
	for p := range int32(partitions) {
		end, err := client.GetOffset(s.topic, p, sarama.OffsetNewest)
		must(err)
		reader, err := consumer.ConsumePartition(s.topic, p, sarama.OffsetOldest)
		must(err)
		for range end {
			select {
			case message := <-reader.Messages():
				records = append(records, received(message))
			case err := <-reader.Errors():
				panic(err)
			case <-ctx.Done():
				panic(ctx.Err())
			}
		}
		must(reader.Close())
	}
	check(len(records) == count, "end offsets: %d", len(records))
	return records
}

func (s saramaClient) offsetByTime(_ context.Context, partition int, timestamp int64) int64 {
	client, err := sarama.NewClient([]string{s.bootstrap}, s.config())
	must(err)
	defer client.Close()
	offset, err := client.GetOffset(s.topic, int32(partition), timestamp)
	must(err)
	return offset
}

// saramaMember is in the group until it leaves. Its messages go to a channel, if there is one.
type saramaMember struct {
	group    sarama.ConsumerGroup
	stop     context.CancelFunc
	mutex    sync.Mutex
	held     map[int32]bool
	session  sarama.ConsumerGroupSession
	messages chan *sarama.ConsumerMessage
	done     chan struct{}
}

func (s saramaClient) member(ctx context.Context, messages chan *sarama.ConsumerMessage) *saramaMember {
	group, err := sarama.NewConsumerGroup([]string{s.bootstrap}, s.group, s.config())
	must(err)
	ctx, stop := context.WithCancel(ctx)
	member := &saramaMember{group: group, stop: stop, messages: messages, done: make(chan struct{})}
	go func() {
		defer close(member.done)
		for ctx.Err() == nil {
			must(group.Consume(ctx, []string{s.topic}, member))
		}
	}()
	return member
}

func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.held, m.session = map[int32]bool{}, session
	for _, partitions := range session.Claims() {
		for _, partition := range partitions {
			m.held[partition] = true
		}
	}
	return nil
}

func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.held = nil
	return nil
}

func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			if m.messages != nil {
				session.MarkMessage(message, "up to here")
				m.messages <- message
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *saramaMember) holds() map[int32]bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return maps.Clone(m.held)
}

// commit commits behind what was marked.
func (m *saramaMember) commit() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.session.Commit()
}

func (m *saramaMember) leave() {
	m.stop()
	<-m.done
	must(m.group.Close())
}

func (s saramaClient) rebalance(ctx context.Context) {
	one, two := s.member(ctx, nil), s.member(ctx, nil)
	wait(ctx, "both members share the topic", func() bool {
		a, b := one.holds(), two.holds()
		if len(a) == 0 || len(b) == 0 {
			return false
		}
		maps.Copy(a, b)
		return len(a) == partitions
	})
	admin := s.admin()
	defer admin.Close()
	described, err := admin.DescribeConsumerGroups([]string{s.group})
	must(err)
	check(described[0].State == "Stable" && len(described[0].Members) == 2, "described: %+v", described[0])
	two.leave()
	wait(ctx, "the other takes over", func() bool { return len(one.holds()) == partitions })
	one.leave()
	groups, err := admin.ListConsumerGroups()
	must(err)
	check(groups[s.group] == "consumer", "listed: %v", groups)
}

func (s saramaClient) consume(ctx context.Context, count int) []record {
	messages := make(chan *sarama.ConsumerMessage)
	member := s.member(ctx, messages)
	var records []record
	for len(records) < count {
		select {
		case message := <-messages:
			records = append(records, received(message))
		case <-ctx.Done():
			panic(ctx.Err())
		}
	}
	member.commit()
	member.leave()
	return records
}

func (s saramaClient) committed(context.Context) []int64 {
	admin := s.admin()
	defer admin.Close()
	fetched, err := admin.ListConsumerGroupOffsets(s.group, map[string][]int32{s.topic: {0, 1, 2}})
	must(err)
	offsets := make([]int64, partitions)
	for p := range offsets {
		block := fetched.GetBlock(s.topic, int32(p))
		check(block != nil && block.Err == sarama.ErrNoError && block.Metadata == "up to here", "partition %d: %+v", p, block)
		offsets[p] = block.Offset
	}
	return offsets
}

func (s saramaClient) remove(context.Context) {
	admin := s.admin()
	defer admin.Close()
	must(admin.DeleteTopic(s.topic))
	topics, err := admin.ListTopics()
	must(err)
	_, found := topics[s.topic]
	check(!found, "a deleted topic is gone: %v", topics)
	err = admin.DeleteTopic(s.topic)
	check(errors.Is(err, sarama.ErrUnknownTopicOrPartition), "deleted twice: %v", err)
}
