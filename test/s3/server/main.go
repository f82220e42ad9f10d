// Command server is an S3 server in memory, with one bucket: the stand-in for a managed one in the local cluster and in tests.
// Nothing survives it. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are what a client must know.
package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/test/s3/memory"
)

func main() { admin.Main("s3", run) }

func run() error {
	listen := flag.String("listen", ":9000", "`address` of the S3 port")
	adminAddress := flag.String("admin", admin.DefaultAddress, "`address` of the admin port")
	bucket := flag.String("bucket", "caches", "`name` of the bucket")
	flag.Parse()
	key, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if key == "" || secret == "" {
		return errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set to what clients shall know")
	}
	backend := s3mem.New()
	if err := backend.CreateBucket(context.Background(), *bucket); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	handler := memory.Handler(backend, gofakes3.WithV4Auth(map[string]string{key: secret}))
	return admin.New().Run(context.Background(), admin.Options{Address: *adminAddress}, admin.HTTP(listener, handler))
}
