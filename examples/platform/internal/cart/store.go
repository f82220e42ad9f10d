package cart

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// store is Redis. It connects in the background, so that the program starts without Redis.
type store struct {
	client  atomic.Pointer[rueidis.Client]
	problem atomic.Pointer[string]
	timeout time.Duration
	ttl     time.Duration
	stop    context.CancelFunc
	done    chan struct{}
}

var errNotConnected = errors.New("Redis: not connected yet")

func openStore(c Config) (*store, error) {
	options, err := rueidis.ParseURL(c.RedisURL)
	if err != nil {
		return nil, errors.New("REDIS_URL is not valid")
	}
	options.Dialer = net.Dialer{Timeout: c.RedisTimeout, KeepAlive: 30 * time.Second}
	options.ConnWriteTimeout = c.RedisTimeout
	options.DisableCache = true
	options.ClientName = "shopset-demo-cart"
	ctx, stop := context.WithCancel(context.Background())
	s := &store{timeout: c.RedisTimeout, ttl: c.TTL, stop: stop, done: make(chan struct{})}
	go s.connect(ctx, options)
	return s, nil
}

// connect tries until Redis answers; from then on the client reconnects by itself.
func (s *store) connect(ctx context.Context, options rueidis.ClientOption) {
	defer close(s.done)
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(pause*2, 2*time.Second) {
		client, err := rueidis.NewClient(options)
		if err == nil {
			s.client.Store(&client)
			slog.Info("connected to Redis")
			return
		}
		text := err.Error()
		s.problem.Store(&text)
		slog.Warn("Redis", "error", err, "again", pause.String())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (s *store) close() {
	s.stop()
	<-s.done
	if client := s.client.Load(); client != nil {
		(*client).Close()
	}
}

// redis returns the client and bounds the context.
func (s *store) redis(ctx context.Context) (rueidis.Client, context.Context, context.CancelFunc, error) {
	client := s.client.Load()
	if client == nil {
		if problem := s.problem.Load(); problem != nil {
			return nil, nil, nil, fmt.Errorf("%w: %s", errNotConnected, *problem)
		}
		return nil, nil, nil, errNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	return *client, ctx, cancel, nil
}

// check is the readiness check.
func (s *store) check(ctx context.Context) error {
	client, ctx, cancel, err := s.redis(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return client.Do(ctx, client.B().Ping().Build()).Error()
}

// keys names what Redis holds of a session.
type keys struct{ base string }

func keysOf(shop, session string) keys { return keys{"cart:{" + shop + "/" + session + "}"} }

func (k keys) cart() string              { return k.base }
func (k keys) pending() string           { return k.base + ":pending" }
func (k keys) completed(g string) string { return k.base + ":done:" + g }

// contents is what is in a cart.
type contents struct {
	generation string
	lines      []shopapi.LineRequest
	// pending says that a purchase was begun of which nothing is known yet.
	pending bool
}

func (s *store) load(ctx context.Context, k keys) (contents, error) {
	client, ctx, cancel, err := s.redis(ctx)
	if err != nil {
		return contents{}, err
	}
	defer cancel()
	answers := client.DoMulti(ctx, client.B().Hgetall().Key(k.cart()).Build(), client.B().Exists().Key(k.pending()).Build())
	fields, err := answers[0].AsStrMap()
	if err != nil {
		return contents{}, fmt.Errorf("Redis: %w", err)
	}
	pending, err := answers[1].AsBool()
	if err != nil {
		return contents{}, fmt.Errorf("Redis: %w", err)
	}
	c := contents{generation: fields["gen"], pending: pending}
	delete(fields, "gen")
	for field, value := range fields {
		line, err := parseLine(field, value)
		if err != nil {
			return c, err
		}
		c.lines = append(c.lines, line)
	}
	sort.Slice(c.lines, func(i, j int) bool { return c.lines[i].Product < c.lines[j].Product })
	return c, nil
}

func parseLine(product, quantity string) (shopapi.LineRequest, error) {
	id, err := shopapi.ParseProduct(product)
	if err != nil {
		return shopapi.LineRequest{}, err
	}
	n, err := strconv.Atoi(quantity)
	return shopapi.LineRequest{Product: id, Quantity: n}, err
}

// run runs a script and reads its answer with read.
func run[T any](ctx context.Context, s *store, script *rueidis.Lua, keys, arguments []string, read func(rueidis.RedisResult) (T, error)) (T, error) {
	var none T
	client, ctx, cancel, err := s.redis(ctx)
	if err != nil {
		return none, err
	}
	defer cancel()
	value, err := read(script.Exec(ctx, client, keys, arguments))
	if err != nil {
		return none, fmt.Errorf("Redis: %w", err)
	}
	return value, nil
}

func asText(r rueidis.RedisResult) (string, error)    { return r.ToString() }
func asNumber(r rueidis.RedisResult) (int64, error)   { return r.AsInt64() }
func asTexts(r rueidis.RedisResult) ([]string, error) { return r.AsStrSlice() }

func (s *store) seconds() string { return strconv.FormatInt(int64(s.ttl.Seconds()), 10) }

// add puts pieces into the cart; result is ok, lines (too many) or quantity (too many).
func (s *store) add(ctx context.Context, k keys, product int64, quantity int) (result string, err error) {
	return run(ctx, s, addScript, []string{k.cart(), k.pending()}, []string{
		strconv.FormatInt(product, 10), strconv.Itoa(quantity), strconv.Itoa(shopapi.MaxLines),
		strconv.Itoa(shopapi.MaxQuantity), s.seconds(), rand.Text(),
	}, asText)
}

// set changes the quantity of a line, 0 removes it.
func (s *store) set(ctx context.Context, k keys, product int64, quantity int) error {
	_, err := run(ctx, s, setScript, []string{k.cart(), k.pending()},
		[]string{strconv.FormatInt(product, 10), strconv.Itoa(quantity), s.seconds()}, asText)
	return err
}

// linesHash identifies the lines of a cart, which are sorted. beginScript makes the same.
func linesHash(lines []shopapi.LineRequest) string {
	h := sha1.New()
	for _, line := range lines {
		fmt.Fprintf(h, "\n%d %d", line.Product, line.Quantity)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// shown is what the page of the cart showed to who pressed Buy.
type shown struct {
	token, lines string
	totalCents   int64
}

// purchase is a frozen purchase.
type purchase struct {
	generation string
	totalCents *int64 // nil in one that an earlier release has begun
	lines      []shopapi.LineRequest
}

// begin starts or takes up a purchase. state is done (with the order), pending (with the
// purchase), empty or changed.
func (s *store) begin(ctx context.Context, k keys, was shown) (state, order string, p purchase, err error) {
	answer, err := run(ctx, s, beginScript, []string{k.cart(), k.pending(), k.completed(was.token)},
		[]string{was.token, s.seconds(), was.lines, strconv.FormatInt(was.totalCents, 10)}, asTexts)
	if err != nil {
		return "", "", p, err
	}
	if len(answer) != 2 {
		return "", "", p, fmt.Errorf("Redis: begin answered %d values", len(answer))
	}
	if answer[0] != "pending" {
		return answer[0], answer[1], p, nil
	}
	parts := strings.Split(answer[1], "\n")
	p.generation = parts[0]
	for _, part := range parts[1:] {
		product, quantity, isLine := strings.Cut(part, " ")
		if !isLine {
			total, err := strconv.ParseInt(part, 10, 64)
			if err != nil {
				return "", "", p, err
			}
			p.totalCents = &total
			continue
		}
		line, err := parseLine(product, quantity)
		if err != nil {
			return "", "", p, err
		}
		p.lines = append(p.lines, line)
	}
	return answer[0], "", p, nil
}

// finish notes the order of a purchase and takes what was bought out of the cart, once.
func (s *store) finish(ctx context.Context, k keys, p purchase, order string) error {
	arguments := []string{p.generation, order, s.seconds(), rand.Text()}
	for _, line := range p.lines {
		arguments = append(arguments, strconv.FormatInt(line.Product, 10), strconv.Itoa(line.Quantity))
	}
	_, err := run(ctx, s, finishScript, []string{k.cart(), k.pending(), k.completed(p.generation)}, arguments, asNumber)
	return err
}

// abort drops a purchase that the api refused.
func (s *store) abort(ctx context.Context, k keys, p purchase) error {
	_, err := run(ctx, s, abortScript, []string{k.pending()}, []string{p.generation}, asNumber)
	return err
}
