package main

import (
	"strings"
	"testing"
)

func TestOnlyGood(t *testing.T) {
	const good = `finished in 2.00s, 100.00 req/s, 1MB/s
requests: 200 total, 200 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx
`
	if err := onlyGood([]byte(good)); err != nil {
		t.Error(err)
	}
	for before, after := range map[string]string{"0 failed": "3 failed", "0 errored": "1 errored", "0 timeout": "10 timeout", "0 3xx": "1 3xx", "0 4xx": "20 4xx",
		"0 5xx": "1 5xx", "200 2xx": "0 2xx", "status": "nothing"} {
		if err := onlyGood([]byte(strings.Replace(good, before, after, 1))); err == nil || !strings.HasPrefix(err.Error(), "h2load") {
			t.Errorf("%s: %v", after, err)
		}
	}
}
