package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Serve answers /metrics at an address until the context ends and, if only the host itself can reach it, Go's profiles at
// /debug/pprof/. It returns the address with the port that it got; the error says why it can't listen.
func Serve(ctx context.Context, address string, from prometheus.Gatherer, log *slog.Logger) (net.Addr, error) {
	var listening net.ListenConfig
	l, err := listening.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics_listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(from, promhttp.HandlerOpts{}))
	if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && at.Addr().Unmap().IsLoopback() {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", "address", address, "error", err)
		}
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() }) // whoever reads metrics just now gets none
	log.Info("metrics are served", "address", l.Addr().String())
	return l.Addr(), nil
}
