package store

import (
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/weft-sdn/weft/proto/identity"
)

// Dial makes a client that notices within about two seconds that a server is dead, held or cut off, goes on with the
// others, and comes back by itself. It does not wait for any to answer. The caller closes the client.
//
// With a credential the endpoints are https:// URLs, and the client speaks with TLS to members of etcd and controllers that
// embed one, by whatever the credential is when a connection is made. Without one they are http:// URLs.
func Dial(endpoints []string, credential *identity.Credential) (*clientv3.Client, error) {
	if err := checkScheme(endpoints, credential); err != nil {
		return nil, err
	}
	dialing := []grpc.DialOption{grpc.WithContextDialer(dialGuarded), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: time.Second,
	})}
	if credential != nil { // over what the client makes of the endpoints' scheme
		dialing = append(dialing, grpc.WithTransportCredentials(credential.Dialing(identity.Etcd, identity.Controller)))
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		// A call of its own must not hang for ever in the client's retries; callers give contexts with deadlines.
		BackoffWaitBetween: 50 * time.Millisecond,
		MaxCallRecvMsgSize: 64 << 20,
		DialOptions:        dialing,
		Logger:             zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client for %v: %w", endpoints, err)
	}
	return client, nil
}

// checkScheme refuses endpoints that mean something else than what would be done.
func checkScheme(endpoints []string, credential *identity.Credential) error {
	scheme := "http://"
	if credential != nil {
		scheme = "https://"
	}
	var errs []error
	for _, e := range endpoints {
		if !strings.HasPrefix(e, scheme) {
			errs = append(errs, fmt.Errorf("etcd endpoint %q: want %shost:port; TLS is off only where insecure is set", e, scheme))
		}
	}
	return errors.Join(errs...)
}
