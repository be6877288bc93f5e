package api

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// How long an agent has to answer a question, less than a call may take; and the life of the question should this
// controller die meanwhile.
const (
	answerLimit = 4500 * time.Millisecond
	questionTTL = 10 * time.Second
)

// DiffNode asks the agent through the store.
func (s *nodeService) DiffNode(ctx context.Context, req *weftv1.DiffNodeRequest) (*weftv1.DiffNodeResponse, error) {
	n, err := s.node(req.GetId())
	if err != nil {
		return nil, fault.Status(err)
	}
	if !n.GetAlive() {
		return nil, fault.Status(fault.NodeSilent("node %s can't be asked: its agent is not alive", n.GetId()))
	}
	answer, err := s.ask(ctx, n.GetId())
	switch {
	case err != nil:
		return nil, fault.Status(err)
	case answer.GetError() != "":
		return nil, fault.Status(fault.NodeSilent("the agent of node %s can't say: %s", n.GetId(), answer.GetError()))
	}
	return &weftv1.DiffNodeResponse{Differences: answer.GetDifferences(), Truncated: answer.GetTruncated()}, nil
}

// ask puts a question to a node's agent and waits for the answer. The question is gone when it returns.
func (s *Server) ask(ctx context.Context, node string) (*storev1.Answer, error) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	etcd, id := s.opts.Store.Client(), uuid.NewString()
	granted, err := etcd.Grant(limited, int64(questionTTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("%w: lease for a question: %w", store.ErrUnavailable, err)
	}
	defer func() {
		soon, cancel := context.WithTimeout(context.WithoutCancel(limited), time.Second)
		defer cancel()
		_, _ = etcd.Revoke(soon, granted.ID) // the lease ends by itself if this fails
	}()
	t := &txn.Txn{}
	t.PutLeased(keys.Ask(node, id), &storev1.Question{})
	revision, err := s.opts.Store.Commit(limited, t, granted.ID)
	if err != nil {
		return nil, err
	}
	for resp := range etcd.Watch(clientv3.WithRequireLeader(limited), keys.Answer(node, id), clientv3.WithRev(revision)) {
		for _, ev := range resp.Events {
			if isDelete(ev) {
				continue
			}
			answer := &storev1.Answer{}
			if err := proto.Unmarshal(ev.Kv.Value, answer); err != nil {
				return nil, fault.Damaged("the answer of node "+node, err)
			}
			return answer, nil
		}
		if resp.Err() != nil {
			return nil, watchError(resp.Err())
		}
	}
	return nil, fault.NodeSilent("the agent of node %s did not answer within %s", node, answerLimit)
}
