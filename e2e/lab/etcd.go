package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/weft-sdn/weft/proto/identity"
)

// Etcd is a client of the lab's store, for who looks at it behind the API's back: an admin.
func (l *Lab) Etcd() (*clientv3.Client, error) {
	credential, err := l.Credential()
	if err != nil {
		return nil, err
	}
	return l.EtcdAs(credential)
}

// EtcdAs is a client of the lab's store that the credential speaks for. It reaches every member from inside the
// member's own host, so that no cut cable is in its way; a member that is down or held is passed over after a second. The
// caller closes it.
func (l *Lab) EtcdAs(credential *identity.Credential) (*clientv3.Client, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: s.etcdEndpoints(), DialTimeout: 5 * time.Second,
		DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(l.dialMember), grpc.WithTransportCredentials(credential.Dialing(identity.Etcd, identity.Controller)),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("lab %s: etcd: %w", l.name, err)
	}
	return client, nil
}

// dialMember connects to an address of the management network from the host that has it.
func (l *Lab) dialMember(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("etcd member %q: %w", address, err)
	}
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.Hosts, func(h HostInfo) bool { return h.Management == to.Addr() })
	if i < 0 {
		return nil, fmt.Errorf("etcd member %s: host of lab %s %w", address, l.name, ErrNotFound)
	}
	return l.space(s.Hosts[i].Name, "").dial(ctx, "tcp", address)
}
