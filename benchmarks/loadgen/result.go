package main

import (
	"fmt"
	"math"
	"sort"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
)

// A result is what is printed.
type result struct {
	Method      string         `json:"method"`
	Address     string         `json:"address"`
	Callers     int            `json:"callers"`
	Connections int            `json:"connections"`
	Procs       int            `json:"procs"`
	Mode        string         `json:"mode,omitempty"`
	HitRatio    float64        `json:"hit_ratio"`
	StoppedBy   string         `json:"stopped_by"` // "requests", "duration" or "prompts"
	Requests    int            `json:"requests"`   // that ended, well or not
	Errors      map[string]int `json:"errors"`     // by gRPC code
	ElapsedS    float64        `json:"elapsed_s"`
	PerSecond   float64        `json:"per_second"` // of those that succeeded
	LatencyMs   latency        `json:"latency_ms"` // of those that succeeded
	Outcomes    *outcomes      `json:"outcomes,omitempty"`
	ClientCPUS  float64        `json:"client_cpu_s"`
}

// Exact values of the sample, not estimates from buckets.
type latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func summarise(o *options, m *measurement) *result {
	r := &result{
		Method: o.method, Address: o.address, Callers: o.callers, Connections: o.connections, Procs: o.procs,
		HitRatio: o.hitRatio, StoppedBy: "requests", Requests: len(m.latencies), Errors: map[string]int{},
		ElapsedS: m.elapsed.Seconds(), PerSecond: float64(len(m.latencies)) / m.elapsed.Seconds(),
		ClientCPUS: m.cpu.Seconds(),
	}
	if o.method == "decide" {
		r.Mode, r.Outcomes = o.mode, &m.outcomes
	} else {
		r.Method = o.rpc
	}
	for c, count := range m.errors {
		r.Errors[code.Code_name[int32(c)]] = count
		r.Requests += count
	}
	if m.ranOut {
		r.StoppedBy = "prompts"
	} else if o.requests == 0 || r.Requests < o.requests {
		r.StoppedBy = "duration"
	}
	sort.Slice(m.latencies, func(i, j int) bool { return m.latencies[i] < m.latencies[j] })
	r.LatencyMs = latency{
		percentile(m.latencies, 0.5), percentile(m.latencies, 0.9), percentile(m.latencies, 0.95),
		percentile(m.latencies, 0.99), percentile(m.latencies, 1),
	}
	return r
}

// percentile returns, in ms, the smallest value that at least this share of the sorted sample does not exceed.
func percentile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return float64(sorted[rank-1]) / float64(time.Millisecond)
}

func (r *result) String() string {
	text := fmt.Sprintf("%d requests in %.2f s: %.0f a second, p50 %.2f ms, p99 %.2f ms, max %.2f ms; %.2f s of own CPU",
		r.Requests, r.ElapsedS, r.PerSecond, r.LatencyMs.P50, r.LatencyMs.P99, r.LatencyMs.Max, r.ClientCPUS)
	if r.Outcomes != nil {
		text += fmt.Sprintf("; outcomes %+v", *r.Outcomes)
	}
	if len(r.Errors) > 0 {
		text += fmt.Sprintf("; errors %v", r.Errors)
	}
	return text
}
