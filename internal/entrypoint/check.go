package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// checkTimeout bounds the check command.
const checkTimeout = 30 * time.Second

// maxCheckOutput is how much of the check's output is told: its end, where the error is. More is kept, so that no
// secret is cut in two before it is hidden.
const (
	maxCheckOutput = 4 << 10
	keptOutput     = 64 << 10
)

// check is the image's own command on the rendered files.
type check struct {
	line        string
	words       []string
	environment []string
	redact      func(string) string
	stderr      io.Writer
}

// run returns what went wrong, and the exit code for it. What a check that succeeds prints is told as well: those are
// its warnings.
func (c *check) run(ctx context.Context) (int, error) {
	if len(c.words) == 0 {
		return 0, nil
	}
	// As PID 1 nobody else ends it: a Pod that is deleted meanwhile should not wait for the check.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(stop)
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	stopped := make(chan syscall.Signal, 1)
	go func() {
		select {
		case received := <-stop:
			stopped <- received.(syscall.Signal)
			cancel()
		case <-ctx.Done():
		}
	}()
	output := &tail{}
	err := c.start(ctx, output)
	told := c.redact(string(output.end))
	told = strings.TrimSpace(told[max(0, len(told)-maxCheckOutput):])
	select {
	case received := <-stopped:
		return 128 + int(received), fmt.Errorf("check %q: ended by the signal %s", c.line, received)
	default:
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return exitConfig, fmt.Errorf("check %q did not end within %s", c.line, checkTimeout)
	case err != nil:
		return exitConfig, errors.New(strings.TrimSpace(fmt.Sprintf("check %q: %v\n%s", c.line, err, told)))
	case told != "":
		fmt.Fprintln(c.stderr, told)
	}
	return 0, nil
}

func (c *check) start(ctx context.Context, output io.Writer) error {
	command := exec.CommandContext(ctx, c.words[0], c.words[1:]...)
	command.Env = c.environment
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	command.Stdout, command.Stderr = output, output
	if err := command.Run(); !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return nil // It succeeded; only something that it started has its output still.
}

// tail keeps the end of what is written.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if len(t.end) > keptOutput {
		t.end = slices.Clone(t.end[len(t.end)-keptOutput:])
	}
	return len(p), nil
}

// Words splits a command line at spaces outside of single or double quotes. There are no escapes, no variables and
// no other things of a shell: who wants these writes sh -c '…'.
func Words(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord := false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && strings.ContainsRune(" \t\n", c):
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the %c is not closed", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
