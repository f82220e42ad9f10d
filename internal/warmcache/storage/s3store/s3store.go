// Package s3store keeps objects in a bucket of S3, or of anything that speaks its API, with conditional writes.
package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Config says where the bucket is. Credentials come from the environment, files, or the identity of the Pod, as in every program
// of AWS' SDK.
type Config struct {
	Bucket string
	// Prefix of all keys, without a slash at its end.
	Prefix string
	// Endpoint of an S3 that is not AWS'; PathStyle for those that have no host for each bucket.
	Endpoint  string
	Region    string
	PathStyle bool
	// Encryption at rest: AES256 or aws:kms; the bucket's own default when empty.
	Encryption string
	// Key of aws:kms; AWS' own when empty.
	Key string
	// Insecure allows an endpoint without TLS that is not on this machine: everybody on the way reads the caches, and changes them.
	Insecure bool
}

// check wants a bucket, TLS, and a kind of encryption that there is.
func (c *Config) check() error {
	var problems []error
	if c.Bucket == "" {
		problems = append(problems, errors.New("a bucket is missing"))
	}
	if !slices.Contains([]string{"", "AES256", "aws:kms", "aws:kms:dsse"}, c.Encryption) {
		problems = append(problems, fmt.Errorf("encryption %q: want AES256, aws:kms or aws:kms:dsse", c.Encryption))
	}
	if c.Key != "" && !strings.HasPrefix(c.Encryption, "aws:kms") {
		problems = append(problems, errors.New("a key is for the encryption aws:kms"))
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil:
			// It is not repeated: there may be a password in it.
			problems = append(problems, errors.New("endpoint: want https://HOST, without a user or a password"))
		case u.Scheme == "http" && !c.Insecure && !loopback(u.Hostname()):
			problems = append(problems, fmt.Errorf("endpoint %q: want https, or insecure=true: whoever is on the way could put what they like into all caches", c.Endpoint))
		}
	}
	return errors.Join(problems...)
}

func loopback(host string) bool {
	address := net.ParseIP(host)
	return host == "localhost" || address != nil && address.IsLoopback()
}

// Store is a bucket.
type Store struct {
	client *s3.Client
	config Config
}

// Open reads the credentials; it sends nothing.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	options := []func(*config.LoadOptions) error{}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		o.UsePathStyle = c.PathStyle
		// Trying again is decorate.Retry's: it knows what a conditional write that was answered by nobody means.
		o.RetryMaxAttempts = 1
		// Others than AWS do not all know the newer checksums; what is stored has its own.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	return &Store{client, c}, nil
}

func (s *Store) key(key string) *string {
	if s.config.Prefix != "" {
		key = s.config.Prefix + "/" + key
	}
	return &key
}

// Get implements storage.Storage.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, storage.Info{}, err
	}
	return s.read(ctx, key, *s.key(key), offset, length)
}

// read reads an object by its whole key; name is what it is called in errors.
func (s *Store) read(ctx context.Context, name, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	input := &s3.GetObjectInput{Bucket: &s.config.Bucket, Key: &key}
	switch {
	case length == 0:
		return nil, storage.Info{}, fmt.Errorf("s3: %s: there are no empty ranges: %w", name, storage.ErrRefused)
	case length > 0:
		input.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		input.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	output, err := s.client.GetObject(ctx, input)
	if err != nil {
		return nil, storage.Info{}, s.explain(name, err)
	}
	info := storage.Info{Key: name, Size: whole(output), Tag: aws.ToString(output.ETag), Modified: aws.ToTime(output.LastModified)}
	return output.Body, info, nil
}

// whole is the size of an object of which a part may be read: "bytes 0-1/SIZE".
func whole(output *s3.GetObjectOutput) int64 {
	_, size, _ := strings.Cut(aws.ToString(output.ContentRange), "/")
	if n, err := strconv.ParseInt(size, 10, 64); err == nil {
		return n
	}
	return aws.ToInt64(output.ContentLength)
}

// Put implements storage.Storage.
func (s *Store) Put(ctx context.Context, key string, content []byte, condition storage.Condition) (string, error) {
	if err := storage.CheckKey(key); err != nil {
		return "", err
	}
	input := &s3.PutObjectInput{Bucket: &s.config.Bucket, Key: s.key(key), Body: bytes.NewReader(content)}
	if condition.IfAbsent {
		input.IfNoneMatch = aws.String("*")
	} else if condition.IfTag != "" {
		input.IfMatch = &condition.IfTag
	}
	if s.config.Encryption != "" {
		input.ServerSideEncryption = types.ServerSideEncryption(s.config.Encryption)
		if s.config.Key != "" {
			input.SSEKMSKeyId = &s.config.Key
		}
	}
	output, err := s.client.PutObject(ctx, input)
	if err = s.explain(key, err); errors.Is(err, storage.ErrNotFound) && condition.IfTag != "" {
		err = fmt.Errorf("%s: %w", key, storage.ErrConflict) // It is gone.
	}
	if err != nil {
		return "", err
	}
	return aws.ToString(output.ETag), nil
}

// List implements storage.Storage.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]storage.Info, error) {
	input := &s3.ListObjectsV2Input{Bucket: &s.config.Bucket, Prefix: s.key(prefix), MaxKeys: aws.Int32(int32(min(limit, 1000)))} //nolint:gosec // A small number.
	if after != "" {
		input.StartAfter = s.key(after)
	}
	output, err := s.client.ListObjectsV2(ctx, input)
	if err != nil {
		return nil, s.explain(prefix, err)
	}
	var found []storage.Info
	for _, object := range output.Contents {
		key := strings.TrimPrefix(aws.ToString(object.Key), s.config.Prefix+"/")
		found = append(found, storage.Info{Key: key, Size: aws.ToInt64(object.Size), Tag: aws.ToString(object.ETag), Modified: aws.ToTime(object.LastModified)})
	}
	return found, nil
}

// Delete implements storage.Storage.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.config.Bucket, Key: s.key(key)})
	if err = s.explain(key, err); errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// explain tells the errors that callers know.
func (s *Store) explain(key string, err error) error {
	var response *awshttp.ResponseError
	if err == nil {
		return nil
	}
	if !errors.As(err, &response) {
		return fmt.Errorf("s3: %s: %w", key, err)
	}
	switch status := response.HTTPStatusCode(); status {
	case http.StatusNotFound:
		var api smithy.APIError
		if errors.As(err, &api) && api.ErrorCode() == "NoSuchBucket" {
			return fmt.Errorf("s3: there is no bucket %s: %w", s.config.Bucket, storage.ErrRefused)
		}
		return fmt.Errorf("%s: %w", key, storage.ErrNotFound)
	case http.StatusPreconditionFailed, http.StatusConflict:
		return fmt.Errorf("%s: %w", key, storage.ErrConflict)
	case http.StatusMovedPermanently, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		var api smithy.APIError
		if errors.As(err, &api) && slices.Contains([]string{"RequestTimeout", "RequestTimeTooSkewed", "ExpiredToken"}, api.ErrorCode()) {
			break // Another one later: credentials are fetched anew.
		}
		return fmt.Errorf("s3: %s: %w: %w", key, storage.ErrRefused, err)
	}
	return fmt.Errorf("s3: %s: %w", key, err)
}
