package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"net"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certstore"
)

// serve is our contender: the store of the proxy, behind a listener that does the handshake and answers.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", "", "`address`")
	redis := flags.String("redis", "", "`address` of Redis")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	keys, err := certrecord.NewKeyring(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		return err
	}
	store, err := certstore.New(certstore.Config{Keys: keys, MaxBytes: 4 << 30, CallsPerSecond: 5000,
		Redis: certrecord.NewRedis(rueidis.ClientOption{InitAddress: []string{*redis}, DisableCache: true})})
	if err != nil {
		return err
	}
	go store.Run(context.Background())
	config := &tls.Config{GetCertificate: store.GetCertificate, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			client := tls.Server(conn, config)
			if client.HandshakeContext(context.Background()) != nil {
				return
			}
			_, _ = client.Read(make([]byte, 1)) // Until the other side ends.
		}()
	}
}
