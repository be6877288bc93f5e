package main

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/proto/store/storetest"
)

// replica is a controller in a process of its own, on an etcd that it shares with others.
type replica struct {
	*process
	conn *grpc.ClientConn
}

func startReplica(t *testing.T, path, endpoint, name string) *replica {
	t.Helper()
	socket := "unix:" + filepath.Join(t.TempDir(), "api.sock")
	r := &replica{process: start(t, nil, path, "--etcd", endpoint, "--listen", socket, "--name", name)}
	r.conn = connect(t, socket)
	return r
}

// leads waits until the replica says that it leads, or that it does not.
func (r *replica) leads(want bool) {
	r.tb.Helper()
	ctx, cancel := context.WithTimeout(r.tb.Context(), deadline)
	defer cancel()
	stream, err := healthv1.NewHealthClient(r.conn).Watch(ctx, &healthv1.HealthCheckRequest{Service: controller.LeaderService})
	for err == nil {
		var got *healthv1.HealthCheckResponse
		if got, err = stream.Recv(); err == nil && (got.GetStatus() == healthv1.HealthCheckResponse_SERVING) == want {
			return
		}
	}
	r.tb.Fatalf("leads %v never came: %v", want, err)
}

func (r *replica) signal(s syscall.Signal) {
	r.tb.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.tb.Fatal(err)
	}
}

func TestOneReplicaLeadsWhicheverIsKilledStoppedOrEnded(t *testing.T) {
	server, path := storetest.Start(t), build(t)
	a := startReplica(t, path, server.Endpoint(), "a")
	a.leads(true)
	b := startReplica(t, path, server.Endpoint(), "b")
	b.leads(false)

	since := time.Now()
	a.signal(syscall.SIGSTOP)
	b.leads(true)
	t.Logf("the next one led %s after SIGSTOP", time.Since(since).Round(time.Millisecond))
	a.signal(syscall.SIGCONT)
	a.leads(false)

	since = time.Now()
	b.signal(syscall.SIGKILL)
	a.leads(true)
	t.Logf("the next one led %s after SIGKILL", time.Since(since).Round(time.Millisecond))

	c := startReplica(t, path, server.Endpoint(), "c")
	c.leads(false)
	since = time.Now()
	if err := a.stop(); err != nil {
		t.Errorf("end on SIGTERM: %v\n%s", err, a.log.String())
	}
	c.leads(true)
	t.Logf("the next one led %s after SIGTERM", time.Since(since).Round(time.Millisecond))
}
