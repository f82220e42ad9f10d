package s3store

import (
	"context"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/shopset/shopset/internal/warmcache/rank"
	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
)

// Logs visits all objects below the prefix, in the order of their keys, which may be any: others write them. One that breaks off
// while it is read goes on where it was.
func (s *Store) Logs(ctx context.Context, visit func(rank.Object) error) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.config.Bucket, Prefix: &s.config.Prefix})
	reader := decorate.Retry{Storage: anyKey{s}}
	for pages.HasMorePages() {
		var page *s3.ListObjectsV2Output
		err := reader.Do(ctx, func(ctx context.Context) (err error) {
			page, err = pages.NextPage(ctx)
			return s.explain(s.config.Prefix, err)
		})
		if err != nil {
			return err
		}
		for _, object := range page.Contents {
			if aws.ToInt64(object.Size) == 0 {
				continue // A folder, for some tools.
			}
			key := aws.ToString(object.Key)
			if err := visit(rank.Object{Name: fmt.Sprintf("s3://%s/%s", s.config.Bucket, key), Modified: aws.ToTime(object.LastModified),
				Open: func(ctx context.Context) (io.ReadCloser, error) {
					body, _, err := reader.Get(ctx, key, 0, -1)
					return body, err
				}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// anyKey reads objects by their whole key, whatever it is made of.
type anyKey struct{ *Store }

// Get implements storage.Storage.
func (a anyKey) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, storage.Info, error) {
	return a.read(ctx, key, key, offset, length)
}
