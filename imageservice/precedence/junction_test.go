package precedence

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// held is for how long GiveWay holds its caller up.
func held(j *Junction, quit <-chan struct{}) time.Duration {
	start := time.Now()
	j.GiveWay(quit)
	return time.Since(start)
}

func TestGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Junction
		want := func(what string, got, want time.Duration) {
			t.Helper()
			if got != want {
				t.Errorf("%s: held up for %v, want %v", what, got, want)
			}
		}
		want("nobody inside", held(&j, nil), 0)
		want("no junction", held(nil, nil), 0)

		first, second := j.Enter(), j.Enter()
		go func() {
			time.Sleep(30 * time.Millisecond)
			first()
			time.Sleep(50 * time.Millisecond)
			second()
		}()
		want("until the last has left", held(&j, nil), 80*time.Millisecond)
		want("all have left", held(&j, nil), 0)

		quit := make(chan struct{})
		leave := j.Enter()
		time.AfterFunc(time.Millisecond, func() { close(quit) })
		want("until the work is given up", held(&j, quit), time.Millisecond)
		leave()
		time.Sleep(most)

		leave = j.Enter()
		want("somebody stays", held(&j, nil), most)
		for range 99 {
			want("it gets on", held(&j, nil), 0)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Millisecond)
		want("then it is held up again", held(&j, nil), least)
		leave()
		time.Sleep(most)
		defer j.Enter()()
		want("rested", held(&j, nil), most)
	})
}

// TestShare: work gets half of the time, however many creations there are.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Junction
		stop := make(chan struct{})
		var creations sync.WaitGroup
		for i := range 8 {
			creations.Go(func() {
				for {
					leave := j.Enter()
					time.Sleep(time.Duration(40+10*i) * time.Millisecond)
					leave()
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			})
		}
		start, worked := time.Now(), time.Duration(0)
		for time.Since(start) < 20*time.Second {
			j.GiveWay(nil)
			time.Sleep(time.Millisecond)
			worked += time.Millisecond
		}
		took := time.Since(start)
		close(stop)
		creations.Wait()
		if share := worked.Seconds() / took.Seconds(); share < 0.45 || share > 0.6 {
			t.Errorf("it got %.2f of the time", share)
		}
	})
}
