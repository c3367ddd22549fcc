package powercut

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A ledger is what the daemon has promised: the images whose pulls it has answered and
// that nobody has asked it to remove since.
type ledger struct {
	mu   sync.Mutex
	have map[string]int // by reference; which pull it was
	next int
}

func (l *ledger) pulled(ref string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	l.have[ref] = l.next
}

func (l *ledger) removing(ref string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.have, ref)
}

func (l *ledger) now() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.have)
}

// both are the promises that stood at both moments, and so at each between.
func both(before, after map[string]int) map[string]bool {
	out := map[string]bool{}
	for ref, n := range before {
		if after[ref] == n {
			out[ref] = true
		}
	}
	return out
}

// A churn pulls and removes images, and runs and removes pods, until it is stopped.
type churn struct {
	c      *node.Client
	images []image
	logs   string
	ledger ledger
	turns  []sync.Mutex // of an image each: one asks for it at a time

	ending chan struct{} // closed when no more is to begin
	group  sync.WaitGroup
	failed chan error // the first thing that went wrong
}

// pullers is how many images are pulled or removed at a time.
const pullers = 2

func start(ctx context.Context, c *node.Client, images []image, logs string) *churn {
	k := &churn{c: c, images: images, logs: logs, ledger: ledger{have: map[string]int{}}, turns: make([]sync.Mutex, len(images)),
		ending: make(chan struct{}), failed: make(chan error, 1)}
	for range pullers {
		k.loop(ctx, k.image)
	}
	k.loop(ctx, k.pod)
	return k
}

// loop does one thing after the other.
func (k *churn) loop(ctx context.Context, do func(context.Context) error) {
	k.group.Go(func() {
		for {
			select {
			case <-k.ending:
				return
			default:
			}
			if err := do(ctx); err != nil {
				select {
				case k.failed <- err:
				default:
				}
				return
			}
		}
	})
}

// stop lets what has begun end, and returns what went wrong.
func (k *churn) stop() error {
	close(k.ending)
	k.group.Wait()
	select {
	case err := <-k.failed:
		return err
	default:
		return nil
	}
}

// image pulls or removes one.
func (k *churn) image(ctx context.Context) error {
	n := rand.IntN(len(k.images))
	if !k.turns[n].TryLock() {
		return nil
	}
	defer k.turns[n].Unlock()
	ref := k.images[n].ref
	if _, have := k.ledger.now()[ref]; have {
		k.ledger.removing(ref)
		_, err := k.c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		return err
	}
	id, err := k.c.Pull(ctx, ref)
	if err != nil {
		return err
	}
	if id != k.images[n].id {
		return fmt.Errorf("pull %s: %s, not %s", ref, id, k.images[n].id)
	}
	k.ledger.pulled(ref)
	return nil
}

// pod runs a pod with a container of an image that is there, and removes both.
func (k *churn) pod(ctx context.Context) error {
	pod := hostPod(fmt.Sprint("churn-", rand.Uint64()), k.logs)
	id, err := k.c.RunPod(ctx, pod)
	if err != nil {
		return err
	}
	if refs := slices.Sorted(maps.Keys(k.ledger.now())); len(refs) > 0 {
		// It may be removed meanwhile.
		_, _ = k.c.Run(ctx, id, pod, node.Container("churn", refs[rand.IntN(len(refs))]))
	}
	return k.c.RemovePod(ctx, id)
}

// hostPod is a pod on the host's network, since networks are not what is looked at.
func hostPod(name, logs string) *runtimeapi.PodSandboxConfig {
	pod := node.Pod(name, logs)
	pod.Hostname = ""
	pod.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	return pod
}

// A cut is what was left when the power went.
type cut struct {
	disk     string
	promised map[string]bool // the references of images that must be there
	again    string          // another disk: the power goes again while the next daemon starts; "": it does not
}

// cuts takes the power away n times while images come and go.
func (k *churn) cuts(t *testing.T, s shelf, disk string, n int) (out []cut) {
	t.Helper()
	for i := range n {
		select { // not to wait for something: to strike at a random moment
		case <-time.After(time.Duration(rand.IntN(int(node.Patience(maxBetween))))):
		case err := <-k.failed:
			t.Fatal(err)
		}
		c := cut{disk: fmt.Sprintf("%s-%d", disk, i)}
		before := k.ledger.now()
		if err := cloneFile(disk, c.disk); err != nil {
			t.Fatal(err)
		}
		c.promised = both(before, k.ledger.now())
		out = append(out, c)
	}
	return out
}

// maxBetween is the longest time between two cuts.
const maxBetween = 600 * time.Millisecond
