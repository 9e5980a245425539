package metrics

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The deadlines of one request. A scrape is small and comes every few seconds; whoever is slower is not Prometheus.
const (
	headerTimeout   = 5 * time.Second
	requestTimeout  = 10 * time.Second
	responseTimeout = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 3 * time.Second
	maxHeaderBytes  = 16 << 10
	maxInFlight     = 4
	maxConnections  = 64
)

const frontPage = "holdfast: metrics are at /metrics\n"

// Handler serves GET /metrics from the registry, and one line at / that says so. Everything else is refused. It needs
// no login and tells names of sources, times and totals: listen where only Prometheus can reach it.
func Handler(r *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError, // one bad series must not hide the age of the others
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxInFlight,
		Timeout:             requestTimeout,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(frontPage)) // a caller that has gone is no error of ours
	})
	return mux
}

// Serve answers on the listener until the context ends or the listener fails, then gives requests under way three
// seconds. It closes the listener, and no goroutine of it is left when it returns. The end of the context is no error.
func Serve(ctx context.Context, l net.Listener, h http.Handler, logger *log.Logger) error {
	s := &http.Server{
		Handler: h, ErrorLog: logger, MaxHeaderBytes: maxHeaderBytes,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: responseTimeout, IdleTimeout: idleTimeout,
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(newLimited(l, maxConnections)) }()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("metrics on %s: %w", l.Addr(), err), s.Close())
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.Shutdown(deadline)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
