package main

import (
	"fmt"
	"strconv"
	"strings"
)

type header struct {
	key   string
	value []byte
}

// record is what any of the clients read.
type record struct {
	partition int
	offset    int64
	timestamp int64
	key       []byte
	value     []byte
	headers   []header
}

// sent is record i as every client sends it: every seventh has a null value, and a header key occurs twice.
func sent(i int) record {
	r := record{
		partition: i % partitions,
		offset:    int64(i / partitions),
		timestamp: firstTimestamp + int64(i),
		key:       []byte(fmt.Sprintf("key-%d", i)),
		headers:   []header{{"number", []byte(strconv.Itoa(i))}, {"twice", []byte("a")}, {"twice", []byte("b")}},
	}
	if i%7 != 0 {
		r.value = []byte(fmt.Sprintf("value %d %s", i, strings.Repeat("x", i%300)))
	}
	return r
}

func (r record) number() int {
	number, err := strconv.Atoi(strings.TrimPrefix(string(r.key), "key-"))
	must(err)
	return number
}

// verify holds the records against what was sent: each of the first count numbers once, in its place, unchanged.
func verify(records []record, count int) {
	check(len(records) == count, "%d records instead of %d", len(records), count)
	next := make([]int64, partitions)
	for _, r := range records {
		check(r.offset == next[r.partition], "partition %d: offset %d instead of %d", r.partition, r.offset, next[r.partition])
		next[r.partition]++
		want := sent(r.number())
		check(r.partition == want.partition && r.offset == want.offset, "%s out of place: %d/%d", r.key, r.partition, r.offset)
		check(r.timestamp == want.timestamp, "%s: timestamp %d", r.key, r.timestamp)
		check((r.value == nil) == (want.value == nil) && string(r.value) == string(want.value), "%s: value %q", r.key, r.value)
		check(fmt.Sprint(r.headers) == fmt.Sprint(want.headers), "%s: headers %v", r.key, r.headers)
	}
}

func check(holds bool, format string, arguments ...any) {
	if !holds {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
