package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]string{
		"8443:30443,8080:30080": "[{8443 30443} {8080 30080}]",
		"":                      "[]",
		"8443":                  "error",
		"8443:x":                "error",
		"0:30443":               "error",
		"70000:30443":           "error",
	} {
		forwards, err := parsePublish(text)
		have := fmt.Sprint(forwards)
		if err != nil {
			have = "error"
			if !strings.Contains(err.Error(), "HOSTPORT:NODEPORT") {
				t.Errorf("%q: %v; does not say what is wanted", text, err)
			}
		}
		if have != want {
			t.Errorf("%q: %s, want %s", text, have, want)
		}
	}
}

func TestFlagsBeforeAndAfter(t *testing.T) {
	c := newCommand("logs")
	rest, err := c.parse([]string{"-f", "etcd", "--state", "/x"})
	if err != nil || !c.follow || c.state != "/x" || fmt.Sprint(rest) != "[etcd]" {
		t.Errorf("follow %v, state %q, rest %v, %v", c.follow, c.state, rest, err)
	}
}

func TestUsageErrors(t *testing.T) {
	state := t.TempDir()
	for _, line := range []string{"fly", "up now", "load", "logs", "logs nothing", "up --publish 1"} {
		args := append(strings.Fields(line), "--state", state)
		if err := run(context.Background(), args); err == nil {
			t.Errorf("%q: no error", line)
		} else if line != "up --publish 1" && !errors.Is(err, errUsage) {
			t.Errorf("%q: %v does not lead to the help", line, err)
		}
	}
	if err := run(context.Background(), []string{"node"}); err == nil || !strings.Contains(err.Error(), "'up'") {
		t.Errorf("node by hand: %v", err)
	}
}
