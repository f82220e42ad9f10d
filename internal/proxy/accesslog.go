package proxy

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// accessLog writes a JSON line for each exchange. Lines are gathered and written together, a tenth of a second later at
// most: a system call for each costs more than the rest of the line. One goroutine writes; whoever reads the log, and stops
// reading, keeps no request waiting.
type accessLog struct {
	out     io.Writer
	dropped prometheus.Counter
	some    chan struct{} // lines wait
	many    chan struct{} // so many that they are not to wait
	stop    chan struct{}
	stopped chan struct{}
	once    sync.Once

	mu     sync.Mutex
	buffer []byte
	lines  int
}

const (
	// accessLogDelay is how long a line may wait for others.
	accessLogDelay = 100 * time.Millisecond
	// accessLogBytes is when lines are written at once.
	accessLogBytes = 64 << 10
	// accessLogMost may wait for a log that takes nothing; what comes then is dropped.
	accessLogMost = 4 << 20
	// accessLogEnd is how long the end waits for the last lines.
	accessLogEnd = time.Second
)

func newAccessLog(out io.Writer, dropped prometheus.Counter) *accessLog {
	l := &accessLog{out: out, dropped: dropped, some: make(chan struct{}, 1), many: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{})}
	go l.run()
	return l
}

// write takes a line. A log that cannot be written (a full disk, a reader that is stuck) loses lines, and no requests.
func (l *accessLog) write(e *exchange, elapsed time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buffer) >= accessLogMost {
		l.dropped.Inc()
		return
	}
	l.buffer = appendLine(l.buffer, e, elapsed)
	l.lines++
	if l.lines == 1 {
		wake(l.some)
	}
	if len(l.buffer) >= accessLogBytes {
		wake(l.many)
	}
}

func wake(sleeper chan struct{}) {
	select {
	case sleeper <- struct{}{}:
	default:
	}
}

func (l *accessLog) run() {
	defer close(l.stopped)
	delay := time.NewTimer(accessLogDelay)
	var spare []byte
	failed := false
	for ending := false; !ending; {
		select {
		case <-l.some:
		case <-l.stop:
			ending = true
		}
		delay.Reset(accessLogDelay)
		select {
		case <-delay.C:
		case <-l.many:
		case <-l.stop:
			ending = true
		}
		l.mu.Lock()
		full, lines := l.buffer, l.lines
		l.buffer, l.lines = spare[:0], 0
		l.mu.Unlock()
		if len(full) > 0 {
			_, err := l.out.Write(full)
			if err != nil {
				l.dropped.Add(float64(lines))
				if !failed {
					slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("the access log cannot be written", "error", err)
				}
			}
			failed = err != nil
		}
		if spare = full; cap(spare) > 2*accessLogBytes {
			spare = nil
		}
	}
}

// close writes what waits, for a second at most, and ends.
func (l *accessLog) close() {
	l.once.Do(func() { close(l.stop) })
	end := time.NewTimer(accessLogEnd)
	defer end.Stop()
	select {
	case <-l.stopped:
	case <-end.C:
	}
}

// logged says whether an exchange is one of those that are written: all that went wrong, and a share of the others.
func (p *pipeline) logged(e *exchange) bool {
	return e.status >= http.StatusInternalServerError || e.problem != nil || p.config.AccessLogShare >= 1 ||
		rand.Float64() < p.config.AccessLogShare //nolint:gosec // No secret.
}

// appendLine is what the access log says of an exchange. Queries, cookies and authorization stay out: they hold keys.
func appendLine(b []byte, e *exchange, elapsed time.Duration) []byte {
	r := e.request
	b = append(b, `{"time":"`...)
	b = e.start.Add(elapsed).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","level":"INFO","msg":"request","client":"`...)
	client := e.client
	if client == (netip.Addr{}) {
		client = peer(r.RemoteAddr) // It was answered before anybody asked who it is.
	}
	b = client.AppendTo(b)
	b = append(b, '"')
	b = appendText(b, "host", r.Host)
	b = appendText(b, "method", r.Method)
	b = appendText(b, "path", r.URL.Path)
	b = appendText(b, "proto", r.Proto)
	b = append(b, `,"tls":`...)
	b = strconv.AppendBool(b, r.TLS != nil)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, e.bytes, 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(elapsed.Microseconds())/1000, 'f', -1, 64)
	b = appendText(b, "agent", r.UserAgent())
	for _, optional := range [...]struct{ name, value string }{{"id", e.requestID}, {"shop", e.shop()}, {"role", e.roleName()}, {"endpoint", e.endpoint},
		{"fallback", e.fallback}, {"refused", e.refused}, {"failure", e.failure}} {
		if optional.value != "" {
			b = appendText(b, optional.name, optional.value)
		}
	}
	if e.joined {
		b = append(b, `,"joined":true`...)
	}
	if e.retried {
		b = append(b, `,"retried":true`...)
	}
	if e.problem != nil {
		b = appendText(b, "error", e.problem.Error())
	}
	return append(b, '}', '\n')
}

func (e *exchange) roleName() string {
	if e.role == nil {
		return ""
	}
	return e.role.name
}

// maxLogText bounds each text of a line.
const maxLogText = 4 << 10

// appendText writes ,"name":"value" (RFC 8259).
func appendText(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	if len(value) > maxLogText {
		value = value[:maxLogText]
	}
	for i := 0; i < len(value); {
		c := value[i]
		switch {
		case c >= 0x80:
			char, size := utf8.DecodeRuneInString(value[i:])
			if char == utf8.RuneError && size == 1 || char == '\u2028' || char == '\u2029' {
				b = append(b, '?')
			} else {
				b = append(b, value[i:i+size]...)
			}
			i += size
			continue
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			const digits = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
