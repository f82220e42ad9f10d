package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
)

// errNone says that a source has no record that serves a name.
var errNone = errors.New("there is no such domain")

// errAbsent says that Redis has no record, which may be because it lost it.
var errAbsent = errors.New("Redis does not know the domain")

// brokenRecord is a source's answer that cannot be believed. The source as such works.
type brokenRecord struct{ err error }

func (b *brokenRecord) Error() string { return b.err.Error() }
func (b *brokenRecord) Unwrap() error { return b.err }

// redisSource reads what shopset-certs publishes.
type redisSource struct {
	redis *certrecord.Redis
	keys  *certrecord.Keyring
	// alone says that there is no API to ask: then a record that is not there, while the stream of changes is, is
	// one that shopset-certs has not. It publishes all before it begins the stream.
	alone bool
}

// find returns the record of a name, or of its wildcard, in one round trip. errNone is said of a domain that was
// deleted, and whose wildcard was not there or was deleted, too.
func (s *redisSource) find(ctx context.Context, name string) (*certrecord.Record, error) {
	client, err := s.redis.Client()
	if err != nil {
		return nil, err
	}
	names := []string{name}
	if wildcard := certrecord.Wildcard(name); wildcard != "" && name[0] != '*' {
		names = append(names, wildcard)
	}
	commands := make(rueidis.Commands, len(names))
	for i, name := range names {
		commands[i] = client.B().Get().Key(certrecord.RedisKey(name)).Build()
	}
	commands = append(commands, client.B().Exists().Key(certrecord.ChangesKey).Build())
	results := client.DoMulti(ctx, commands...)
	none := errAbsent
	complete, err := results[len(names)].AsBool()
	complete = complete && err == nil
	if s.alone && complete {
		none = errNone
	}
	for i, result := range results[:len(names)] {
		sealed, err := result.AsBytes()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		record, err := certrecord.Open(s.keys, names[i], sealed)
		if errors.Is(err, certrecord.ErrDeleted) {
			none = errNone
			continue
		}
		if err != nil {
			return nil, &brokenRecord{err}
		}
		// Until all are published, that there is no record of the name itself says nothing: the wildcard's came first.
		if i > 0 && none == errAbsent && !complete && !s.alone { //nolint:errorlint // It is this very one.
			return nil, errAbsent
		}
		return record, nil
	}
	return nil, none
}

// change is an entry of the list of changes.
type change struct {
	Number uint64 `json:"number"`
	Name   string `json:"name"`
}

// errForgotten says that changes after a number are known no more.
var errForgotten = errors.New("changes were forgotten")

// last is the number of the last change that Redis has, zero for none.
func (s *redisSource) last(ctx context.Context) (uint64, error) {
	client, err := s.redis.Client()
	if err != nil {
		return 0, err
	}
	entries, err := client.Do(ctx, client.B().Xrevrange().Key(certrecord.ChangesKey).End("+").Start("-").Count(1).Build()).AsXRange()
	if err != nil && !rueidis.IsRedisNil(err) || len(entries) == 0 {
		return 0, ignoreNil(err)
	}
	c, err := changeOf(entries[0])
	return c.Number, err
}

func ignoreNil(err error) error {
	if rueidis.IsRedisNil(err) {
		return nil
	}
	return err
}

func changeOf(entry rueidis.XRangeEntry) (change, error) {
	for i, c := range []byte(entry.ID) {
		if c == '-' {
			number, err := strconv.ParseUint(entry.ID[:i], 10, 64)
			return change{number, entry.FieldValues["name"]}, err
		}
	}
	return change{}, fmt.Errorf("entry %q of %s has no number", entry.ID, certrecord.ChangesKey)
}

// maxChanges is how many are read at once.
const maxChanges = 1000

// changes returns those after a number, and waits for one for a while. errForgotten says that the number itself
// is not there any more, so that some between may be missing.
func (s *redisSource) changes(ctx context.Context, after uint64, wait time.Duration) ([]change, error) {
	client, err := s.redis.Client()
	if err != nil {
		return nil, err
	}
	id := strconv.FormatUint(after, 10) + "-0"
	if after > 0 {
		present, err := client.Do(ctx, client.B().Xrange().Key(certrecord.ChangesKey).Start(id).End(id).Count(1).Build()).AsXRange()
		if err := ignoreNil(err); err != nil {
			return nil, err
		}
		if len(present) == 0 {
			return nil, errForgotten
		}
	}
	answer, err := client.Do(ctx, client.B().Xread().Count(maxChanges).Block(wait.Milliseconds()).Streams().Key(certrecord.ChangesKey).Id(id).Build()).AsXRead()
	if err := ignoreNil(err); err != nil {
		return nil, err
	}
	var changes []change
	for _, entry := range answer[certrecord.ChangesKey] {
		c, err := changeOf(entry)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// API is how the certificate API is reached.
type API struct {
	// URL of the API, without a path.
	URL string
	// Token that it knows as a reader's; empty with a client certificate.
	Token string
	// Client speaks HTTP; http.DefaultClient when nil. It must not follow redirects elsewhere.
	Client *http.Client
}

type apiSource struct {
	API
	keys *certrecord.Keyring
}

// get sends a request; the answer's body is read whole, up to a limit.
func (s *apiSource) get(ctx context.Context, path string, limit int64) (status int, header http.Header, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	if s.Token != "" {
		request.Header.Set("Authorization", "Bearer "+s.Token)
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return response.StatusCode, response.Header, body, err
}

func (s *apiSource) find(ctx context.Context, name string) (*certrecord.Record, error) {
	status, header, body, err := s.get(ctx, "/v1/records/"+url.PathEscape(name), certrecord.MaxSize)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound && isAPI(header, body):
		return nil, errNone
	case status != http.StatusOK:
		return nil, fmt.Errorf("status %d", status)
	}
	own := header.Get("Shopset-Name")
	if own != name && (own == "" || own != certrecord.Wildcard(name)) {
		return nil, &brokenRecord{fmt.Errorf("the answer for %s is of %q", name, own)}
	}
	record, err := certrecord.Open(s.keys, own, body)
	if err != nil {
		return nil, &brokenRecord{err}
	}
	return record, nil
}

// isAPI says whether a "not found" is the API's own: something between might say it, too.
func isAPI(header http.Header, body []byte) bool {
	var failure struct{ Error string }
	return header.Get("Content-Type") == "application/json" && json.Unmarshal(body, &failure) == nil && failure.Error != ""
}

func (s *apiSource) changes(ctx context.Context, after uint64, wait time.Duration) ([]change, error) {
	answer, err := s.askChanges(ctx, fmt.Sprintf("?after=%d&wait=%s", after, wait))
	return answer.Changes, err
}

// last is the number of the last change.
func (s *apiSource) last(ctx context.Context) (uint64, error) {
	answer, err := s.askChanges(ctx, "")
	return answer.Last, err
}

type changesAnswer struct {
	Last    uint64   `json:"last"`
	Changes []change `json:"changes"`
}

func (s *apiSource) askChanges(ctx context.Context, query string) (answer changesAnswer, err error) {
	status, _, body, err := s.get(ctx, "/v1/changes"+query, 1<<20)
	switch {
	case err != nil:
		return answer, err
	case status == http.StatusGone:
		return answer, errForgotten
	case status != http.StatusOK:
		return answer, fmt.Errorf("status %d", status)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("changes: %w", err)
	}
	return answer, nil
}

// breaker leaves a source alone that fails: after some failures in a row it is asked again only once per pause.
type breaker struct {
	mu       sync.Mutex
	failures int
	next     time.Time
}

const (
	breakAfter = 3
	breakPause = time.Second
)

// allows says whether the source may be asked now.
func (b *breaker) allows(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return true
	}
	if now.Before(b.next) {
		return false
	}
	b.next = now.Add(breakPause) // This one tries.
	return true
}

func (b *breaker) tell(now time.Time, works bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if works {
		b.failures = 0
		return
	}
	b.failures++
	b.next = now.Add(breakPause)
}
