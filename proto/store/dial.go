package store

import (
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Dial makes a client that notices within about two seconds that a server is dead, held or cut off, goes on with the
// others, and comes back by itself. It does not wait for any to answer. The caller closes the client.
func Dial(endpoints []string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		// A call of its own must not hang for ever in the client's retries; callers give contexts with deadlines.
		BackoffWaitBetween: 50 * time.Millisecond,
		MaxCallRecvMsgSize: 64 << 20,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dialGuarded), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		})},
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client for %v: %w", endpoints, err)
	}
	return client, nil
}
