// Loadgen puts a bounded, closed-loop load on a Waypost on this machine and prints one JSON object about it.
//
//	build/loadgen -address 127.0.0.1:50051 -prompts prompts.jsonl -callers 32 -duration 20
//	build/loadgen -address unix:/run/waypost.sock -prompts new.jsonl -hot stored.jsonl -hit-ratio 0.5 -requests 10000
//	build/loadgen -address 127.0.0.1:50051 -method echo -rpc /bench.Echo/Echo -payload 200 -requests 10000
//
// Each caller has one request under way at a time. Requests are serialised before the clock starts, and responses
// are looked at after theirs has stopped: this process shares its cores with the server that it measures.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	waypostv1 "example.com/waypost/v1"
)

const (
	decideMethod = "/waypost.v1.Router/Decide"
	// The collector may let the heap grow fivefold: its work would be taken from the server's cores.
	gcPercent = 400
)

var modes = map[string]waypostv1.CacheMode{
	"default":    waypostv1.CacheMode_CACHE_MODE_DEFAULT,
	"exact_only": waypostv1.CacheMode_CACHE_MODE_EXACT_ONLY,
	"bypass":     waypostv1.CacheMode_CACHE_MODE_BYPASS,
}

// options are the command line.
type options struct {
	address     string
	callers     int
	connections int
	duration    time.Duration
	requests    int
	warmup      int
	deadline    time.Duration
	procs       int

	method   string
	rpc      string
	payload  int
	prompts  string
	loop     bool
	hot      string
	hitRatio float64
	scope    string
	mode     string

	jsonOnly bool
}

func parse() (*options, error) {
	o := &options{}
	var seconds float64
	var deadline int
	var unique bool
	flag.StringVar(&o.address, "address", "127.0.0.1:50051", "loopback host:port, or unix:/path")
	flag.IntVar(&o.callers, "callers", 1, "concurrent callers, each with one request at a time")
	flag.IntVar(&o.connections, "connections", 4, "channels that the callers share")
	flag.Float64Var(&seconds, "duration", 0, "stop after this many seconds")
	flag.IntVar(&o.requests, "requests", 0, "stop after this many requests")
	flag.IntVar(&o.warmup, "warmup", 0, "requests to make before the measurement; they take prompts too")
	flag.IntVar(&deadline, "deadline", 5000, "deadline of each request in ms, 0: none")
	flag.IntVar(&o.procs, "procs", 1, "GOMAXPROCS")
	flag.StringVar(&o.method, "method", "decide", "decide, or echo: any unary RPC with raw bytes")
	flag.StringVar(&o.rpc, "rpc", "", "echo: the RPC's full name, /package.Service/Method")
	flag.IntVar(&o.payload, "payload", 200, "echo: bytes in each request")
	flag.StringVar(&o.prompts, "prompts", "", `decide: a file of prompts, one a line: {"prompt": ...} or plain text`)
	flag.BoolVar(&o.loop, "loop", false, "decide: start again when the prompts run out, instead of stopping")
	flag.BoolVar(&unique, "unique", false, "decide: no prompt twice, the default; excludes -loop")
	flag.StringVar(&o.hot, "hot", "", "decide: a file of prompts whose answers are stored; it always loops")
	flag.Float64Var(&o.hitRatio, "hit-ratio", 0, "decide: share of requests that take a prompt from -hot")
	flag.StringVar(&o.scope, "scope", "benchmark", "decide: the scope")
	flag.StringVar(&o.mode, "mode", "default", "decide: cache mode: default, exact_only or bypass")
	flag.BoolVar(&o.jsonOnly, "json", false, "print the JSON object and nothing else")
	flag.Parse()
	o.duration = time.Duration(seconds * float64(time.Second))
	o.deadline = time.Duration(deadline) * time.Millisecond

	_, knownMode := modes[o.mode]
	for _, check := range []struct {
		fine bool
		want string
	}{
		{flag.NArg() == 0, "no arguments besides the flags"},
		{o.duration > 0 || o.requests > 0, "-duration or -requests: a load is always bounded"},
		{o.duration >= 0 && o.requests >= 0 && o.warmup >= 0 && o.deadline >= 0, "no negative limits"},
		{o.callers > 0 && o.connections > 0 && o.procs > 0, "at least one caller, connection and processor"},
		{o.method == "decide" || o.method == "echo", "-method decide or echo"},
		{o.method != "echo" || strings.HasPrefix(o.rpc, "/"), "-rpc /package.Service/Method with -method echo"},
		{o.payload >= 0, "a -payload that is not negative"},
		{o.method != "decide" || o.prompts != "" || o.hitRatio == 1, "-prompts FILE with -method decide"},
		{!(o.loop && unique), "-loop or -unique, not both"},
		{o.hitRatio >= 0 && o.hitRatio <= 1, "-hit-ratio between 0 and 1"},
		{(o.hitRatio > 0) == (o.hot != ""), "-hot FILE and -hit-ratio together"},
		{knownMode, "-mode default, exact_only or bypass"},
	} {
		if !check.fine {
			return nil, errors.New("wanted: " + check.want)
		}
	}
	if o.connections > o.callers {
		o.connections = o.callers
	}
	return o, onThisMachine(o.address)
}

// onThisMachine refuses addresses that are not loopback: this is a test tool, not a weapon.
func onThisMachine(address string) error {
	if strings.HasPrefix(address, "unix:") {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("-address: %w", err)
	}
	ips := []net.IP{net.ParseIP(host)}
	if host == "localhost" {
		if ips, err = net.LookupIP(host); err != nil {
			return fmt.Errorf("-address: %w", err)
		}
	}
	for _, ip := range ips {
		if ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("-address %s: only loopback and unix sockets are allowed", address)
		}
	}
	return nil
}

func main() {
	o, err := parse()
	if err == nil {
		runtime.GOMAXPROCS(o.procs)
		debug.SetGCPercent(gcPercent)
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	source, err := newSource(o)
	if err != nil {
		return err
	}
	load, err := connect(o)
	if err != nil {
		return err
	}
	defer load.close()

	if o.warmup > 0 {
		if _, err := load.run(source, o.warmup, 0); err != nil {
			return fmt.Errorf("while warming up: %w", err)
		}
	}
	measured, err := load.run(source, o.requests, o.duration)
	if err != nil {
		return err
	}
	result := summarise(o, measured)
	if !o.jsonOnly {
		fmt.Fprintln(os.Stderr, result)
	}
	encoder := json.NewEncoder(os.Stdout)
	return encoder.Encode(result)
}
