package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	waypostv1 "example.com/waypost/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const connectTimeout = 10 * time.Second

// A rawCodec leaves bytes as they are. It goes by the name of the codec it stands in for.
type rawCodec struct{}

func (rawCodec) Name() string                          { return "proto" }
func (rawCodec) Marshal(v interface{}) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = data
	return nil
}

// A load is made by callers that share some channels.
type load struct {
	channels []*grpc.ClientConn
	callers  int
	method   string
	decide   bool
	deadline time.Duration
}

// outcomes of decisions. A degraded one is counted by its outcome, too.
type outcomes struct {
	Plan        int `json:"plan"`
	ExactHit    int `json:"exact_hit"`
	SemanticHit int `json:"semantic_hit"`
	Degraded    int `json:"degraded"`
}

// A measurement is what one caller saw, or all of them together.
type measurement struct {
	latencies []time.Duration // of the requests that succeeded
	errors    map[codes.Code]int
	outcomes  outcomes
	ranOut    bool // of prompts
	elapsed   time.Duration
	cpu       time.Duration
}

func connect(o *options) (*load, error) {
	l := &load{callers: o.callers, method: o.rpc, decide: o.method == "decide", deadline: o.deadline}
	if l.decide {
		l.method = decideMethod
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	for i := 0; i < o.connections; i++ {
		channel, err := grpc.DialContext(ctx, o.address,
			grpc.WithInsecure(),
			grpc.WithBlock(), // connecting is no part of the measurement
			grpc.WithDisableRetry(),
			grpc.WithDisableServiceConfig(),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})),
		)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("nothing answers at %s: %w", o.address, err)
		}
		l.channels = append(l.channels, channel)
	}
	return l, nil
}

func (l *load) close() {
	for _, channel := range l.channels {
		channel.Close()
	}
}

// run makes requests until the first limit is reached; 0 is no limit. Requests under way then are waited for.
func (l *load) run(s *source, requests int, duration time.Duration) (*measurement, error) {
	var started int64
	results := make([]*measurement, l.callers)
	problems := make([]error, l.callers)
	var callers sync.WaitGroup
	callers.Add(l.callers)
	cpuBefore, begin := cpuTime(), time.Now()
	for caller := range results {
		go func(caller int) {
			defer callers.Done()
			more := func(now time.Time) bool {
				return (duration == 0 || now.Sub(begin) < duration) &&
					(requests == 0 || atomic.AddInt64(&started, 1) <= int64(requests))
			}
			results[caller], problems[caller] = l.call(l.channels[caller%len(l.channels)], s, more)
		}(caller)
	}
	callers.Wait()

	all := &measurement{errors: map[codes.Code]int{}, elapsed: time.Since(begin), cpu: cpuTime() - cpuBefore}
	for caller, result := range results {
		if problems[caller] != nil {
			return nil, problems[caller]
		}
		all.add(result)
	}
	return all, nil
}

// call is one caller: one request at a time, on one channel.
func (l *load) call(
	channel *grpc.ClientConn, s *source, more func(time.Time) bool,
) (*measurement, error) {
	m := &measurement{latencies: make([]time.Duration, 0, 1024), errors: map[codes.Code]int{}}
	for begin := time.Now(); more(begin); begin = time.Now() {
		request := s.take()
		if request == nil {
			m.ranOut = true
			break
		}
		var response []byte
		err := l.invoke(channel, request, &response)
		latency := time.Since(begin)
		if err != nil {
			m.errors[status.Code(err)]++
			continue
		}
		m.latencies = append(m.latencies, latency)
		if l.decide {
			if err := m.outcomes.count(response); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func (l *load) invoke(channel *grpc.ClientConn, request []byte, response *[]byte) error {
	ctx := context.Background()
	if l.deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.deadline)
		defer cancel()
	}
	return channel.Invoke(ctx, l.method, request, response)
}

func (o *outcomes) count(response []byte) error {
	var decision waypostv1.DecideResponse
	if err := proto.Unmarshal(response, &decision); err != nil {
		return fmt.Errorf("not a DecideResponse: %w", err)
	}
	switch {
	case decision.GetPlan() != nil:
		o.Plan++
	case decision.GetAnswer().GetMatch() == waypostv1.Match_MATCH_EXACT:
		o.ExactHit++
	case decision.GetAnswer().GetMatch() == waypostv1.Match_MATCH_SEMANTIC:
		o.SemanticHit++
	default:
		return fmt.Errorf("a DecideResponse with neither plan nor answer: %v", &decision)
	}
	if decision.Degraded > waypostv1.Degraded_DEGRADED_NONE {
		o.Degraded++
	}
	return nil
}

func (m *measurement) add(other *measurement) {
	m.latencies = append(m.latencies, other.latencies...)
	for code, count := range other.errors {
		m.errors[code] += count
	}
	m.outcomes.Plan += other.outcomes.Plan
	m.outcomes.ExactHit += other.outcomes.ExactHit
	m.outcomes.SemanticHit += other.outcomes.SemanticHit
	m.outcomes.Degraded += other.outcomes.Degraded
	m.ranOut = m.ranOut || other.ranOut
}

// cpuTime returns the time that this process has spent on processors, user and system.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it has no way to fail with these arguments
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
