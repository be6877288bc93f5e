package main

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller/backup"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestTheEmbeddedStoreIsRestoredWhileNoControllerRuns saves from a running controller, is refused to restore under it, and
// restores into the store that runs alone.
func TestTheEmbeddedStoreIsRestoredWhileNoControllerRuns(t *testing.T) {
	path, dir := build(t), t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	etcd := "http://" + l.Addr().String()
	must(t, l.Close())
	socket := "unix:" + dir + "/api.sock"
	args := []string{"--data-dir", dir + "/data", "--etcd-listen", etcd, "--listen", socket, "--etcd-tick", "20ms", "--etcd-election", "200ms"}
	client, err := store.Dial([]string{etcd}, nil)
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	s := store.New(client)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()

	p := start(t, nil, path, args...)
	networks := weftv1.NewNetworkServiceClient(connect(t, socket))
	kept, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "kept"}})
	must(t, err)
	var file bytes.Buffer
	saved, err := backup.Save(ctx, s, &file)
	must(t, err)
	late, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "late"}})
	must(t, err)
	must(t, p.stop())

	p = start(t, nil, path, append([]string{"store"}, args...)...)
	var did backup.Changes
	for { // until it serves, and the controller's lease has ended
		did, err = backup.Restore(ctx, s, saved, backup.Options{Replace: true, Now: time.Now()})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	must(t, err)
	if did.Written != 0 || did.Deleted == 0 {
		t.Errorf("%+v", did)
	}
	must(t, p.stop())

	start(t, nil, path, args...)
	networks = weftv1.NewNetworkServiceClient(connect(t, socket))
	_, err = networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: kept.GetId()})
	must(t, err)
	if _, err = networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: late.GetId()}); status.Code(err) != codes.NotFound {
		t.Errorf("what came after the backup: %v", err)
	}
}
