package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand"
	"os"
	"strings"
	"sync/atomic"

	waypostv1 "example.com/waypost/v1"
	"google.golang.org/protobuf/proto"
)

// A source hands out serialised requests. All callers share it.
type source struct {
	fresh    [][]byte // each once, unless loop
	hot      [][]byte // again and again
	hitRatio float64
	loop     bool
	next     int64
}

func newSource(o *options) (*source, error) {
	s := &source{hitRatio: o.hitRatio, loop: o.loop}
	if o.method == "echo" {
		payload := make([]byte, o.payload)
		rand.New(rand.NewSource(1)).Read(payload)
		s.fresh, s.loop = [][]byte{payload}, true
		return s, nil
	}
	var err error
	if o.prompts != "" {
		if s.fresh, err = readRequests(o.prompts, o); err != nil {
			return nil, err
		}
	}
	if o.hot != "" {
		s.hot, err = readRequests(o.hot, o)
	}
	return s, err
}

// take returns the next request, or nil when they have run out. Hits are spread evenly, so that any stretch of the
// run has the ratio that was asked for, and every run is the same.
func (s *source) take() []byte {
	i := atomic.AddInt64(&s.next, 1) - 1
	hotBefore := int64(math.Floor(float64(i) * s.hitRatio))
	if hotAfter := int64(math.Floor(float64(i+1) * s.hitRatio)); hotAfter > hotBefore {
		return s.hot[hotBefore%int64(len(s.hot))]
	}
	fresh := i - hotBefore
	if count := int64(len(s.fresh)); fresh >= count {
		if !s.loop {
			return nil
		}
		fresh %= count
	}
	return s.fresh[fresh]
}

func readRequests(path string, o *options) ([][]byte, error) {
	prompts, err := readPrompts(path)
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, len(prompts))
	for i, prompt := range prompts {
		requests[i], err = proto.Marshal(&waypostv1.DecideRequest{
			Scope:  o.scope,
			Prompt: prompt,
			Cache:  &waypostv1.CacheControl{Mode: modes[o.mode]},
		})
		if err != nil {
			return nil, fmt.Errorf("%s: prompt %d: %w", path, i+1, err)
		}
	}
	return requests, nil
}

// readPrompts reads JSON lines where the first line is an object, and plain text otherwise. Blank lines are skipped.
func readPrompts(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()

	var prompts []string
	isJSON := false
	reader := bufio.NewReader(file)
	for number := 1; err == nil; number++ {
		var line string
		line, err = reader.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, err
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if len(prompts) == 0 {
			isJSON = line[0] == '{'
		}
		if isJSON {
			var record struct{ Prompt string }
			if problem := json.Unmarshal([]byte(line), &record); problem != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, number, problem)
			}
			if line = record.Prompt; line == "" {
				return nil, fmt.Errorf("%s:%d: no prompt", path, number)
			}
		}
		prompts = append(prompts, line)
	}
	if len(prompts) == 0 {
		return nil, fmt.Errorf("%s: no prompts", path)
	}
	return prompts, nil
}
