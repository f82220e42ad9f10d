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
)

// accessLog writes a JSON line for each exchange. Lines are gathered and written together, a tenth of a second later at
// most: a system call for each costs more than the rest of the line.
type accessLog struct {
	out io.Writer

	mu      sync.Mutex
	buffer  []byte
	waiting bool // for the timer
	lost    uint64
}

const (
	// accessLogDelay is how long a line may wait.
	accessLogDelay = 100 * time.Millisecond
	// accessLogBytes is when lines are written at once.
	accessLogBytes = 64 << 10
)

func newAccessLog(out io.Writer) *accessLog {
	return &accessLog{out: out, buffer: make([]byte, 0, accessLogBytes+8<<10)}
}

// write takes a line. A log that cannot be written (a full disk) loses lines, and no requests.
func (l *accessLog) write(e *exchange, elapsed time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buffer = appendLine(l.buffer, e, elapsed)
	switch {
	case len(l.buffer) >= accessLogBytes:
		l.flushLocked()
	case !l.waiting:
		l.waiting = true
		time.AfterFunc(accessLogDelay, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.waiting = false
			l.flushLocked()
		})
	}
}

func (l *accessLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushLocked()
}

func (l *accessLog) flushLocked() {
	if len(l.buffer) == 0 {
		return
	}
	if _, err := l.out.Write(l.buffer); err != nil {
		if l.lost++; l.lost == 1 {
			slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("the access log cannot be written", "error", err)
		}
	} else {
		l.lost = 0
	}
	l.buffer = l.buffer[:0]
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
