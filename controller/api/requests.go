package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// How long results are remembered: a lease lives for leaseTTL and takes new results for leaseUse, so each is kept for at
// least the difference, an hour. A lease takes no more than leaseKeys results: etcd deletes all of a lease's keys in one
// step, during which it does nothing else.
const (
	leaseTTL  = 2 * time.Hour
	leaseUse  = time.Hour
	leaseKeys = 1000
)

// requests remembers the results of calls for their retries. It is safe for concurrent use.
type requests struct {
	store *store.Store

	mu      sync.Mutex
	lease   clientv3.LeaseID
	granted time.Time
	results int // taken by the lease, at most
}

// current is the lease for n results of now.
func (r *requests) current(ctx context.Context, n int) (clientv3.LeaseID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results += n
	if r.lease != 0 && r.results <= leaseKeys && time.Since(r.granted) < leaseUse {
		return r.lease, nil
	}
	granted, err := r.store.Grant(ctx, leaseTTL)
	if err != nil {
		return 0, fmt.Errorf("lease for request ids: %w", err)
	}
	r.lease, r.granted, r.results = granted, time.Now(), n
	return r.lease, nil
}

// lost forgets a lease that the store no longer knows.
func (r *requests) lost(lease clientv3.LeaseID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lease == lease {
		r.lease = 0
	}
}

func leaseLost(err error) bool { return errors.Is(err, rpctypes.ErrLeaseNotFound) }

// call is one call of a method that may be retried.
type call struct {
	method string
	id     string // the request id; "" none
	digest []byte
}

// newCall checks the request id and takes the digest of the request and its caller: nobody gets another's result.
func newCall(ctx context.Context, method, id string, req proto.Message) (call, error) {
	if id == "" {
		return call{method: method}, nil
	}
	if !model.ValidUUID(id) {
		return call{}, model.Invalid("request_id", "%q is not a UUID", id)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return call{}, fmt.Errorf("encode the request: %w", err)
	}
	sum := sha256.Sum256(append([]byte(caller.From(ctx).Name+"\x00"), raw...))
	return call{method: method, id: id, digest: sum[:]}, nil
}

// remember appends the result to the transaction that makes it true.
func (c call) remember(t *txn.Txn, response proto.Message) error {
	if c.id == "" {
		return nil
	}
	raw, err := proto.Marshal(response)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	t.Absent(keys.Request(c.id))
	t.PutLeased(keys.Request(c.id), &storev1.Request{Method: c.method, Digest: c.digest, Response: raw})
	return nil
}

// replay decodes the remembered result into response; revision is 0 when there is none.
func (c call) replay(ctx context.Context, s *store.Store, response proto.Message) (revision int64, err error) {
	if c.id == "" {
		return 0, nil
	}
	e, found, err := record.NewView(s).One(ctx, keys.Request(c.id))
	if err != nil || !found {
		return 0, err
	}
	first := &storev1.Request{}
	if err := proto.Unmarshal(e.Value, first); err != nil {
		return 0, fault.Damaged("the request at key "+e.Key, err)
	}
	if first.GetMethod() != c.method || string(first.GetDigest()) != string(c.digest) {
		return 0, model.Invalid("request_id", "%s was used for another request (%s); use a new one", c.id, first.GetMethod())
	}
	return e.Revision, proto.Unmarshal(first.GetResponse(), response)
}
