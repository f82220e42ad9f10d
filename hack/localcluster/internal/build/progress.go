package build

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress tells people what happens, and while nothing seems to, that it still does: on a
// terminal by a line that changes every second, elsewhere by a new line every 15.
type Progress struct {
	out      io.Writer
	terminal bool

	mu        sync.Mutex
	title     string
	since     time.Time
	packages  int
	downloads int
	drawn     bool
}

// NewProgress returns a Progress that writes to a file.
func NewProgress(out *os.File) *Progress {
	return &Progress{out: out, terminal: term.IsTerminal(int(out.Fd()))}
}

// Line writes a line.
func (p *Progress) Line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Start begins the heartbeat of one build; the function it returns ends it.
func (p *Progress) Start(title string) (done func(ok bool)) {
	p.mu.Lock()
	p.title, p.since, p.packages, p.downloads = title, time.Now(), 0, 0
	p.mu.Unlock()
	every := 15 * time.Second
	if p.terminal {
		every = time.Second
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.beat()
			}
		}
	}()
	return func(ok bool) {
		close(stop)
		<-stopped
		word := "built"
		if !ok {
			word = "failed after"
		}
		p.Line("%s: %s in %s, %d packages compiled", title, word, time.Since(p.since).Round(100*time.Millisecond), p.packages)
	}
}

func (p *Progress) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	elapsed := time.Since(p.since).Round(time.Second)
	switch {
	case p.packages == 0 && p.downloads > 0:
		fmt.Fprintf(p.out, "building %s: %s, %d modules downloaded", p.title, elapsed, p.downloads)
	case p.packages == 0: // all comes from Go's build cache; linking a big program takes its time
		fmt.Fprintf(p.out, "building %s: %s, linking", p.title, elapsed)
	default:
		fmt.Fprintf(p.out, "building %s: %s, %d packages done", p.title, elapsed, p.packages)
	}
	if p.terminal {
		p.drawn = true
	} else {
		fmt.Fprintln(p.out)
	}
}

// erase removes the heartbeat's line from the terminal. The caller holds the lock.
func (p *Progress) erase() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// Packages returns a writer for what 'go build -v' says: a line per package it compiles. What is
// not such a line is kept for the error message.
func (p *Progress) Packages(failure *tail) io.Writer {
	return &lineWriter{line: func(line string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			p.downloads++
		case !strings.ContainsAny(line, " \t:") && line != "":
			p.packages++
		default:
			failure.add(line)
		}
	}}
}
