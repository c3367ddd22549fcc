package keeper

import "context"

// pass is the gate's enter. Who leaves has done something.
func (k *Keeper) pass(ctx context.Context, what string, kind passage) (leave func(), err error) {
	exit, err := k.gate.enter(ctx, what, kind)
	if err != nil {
		return nil, err
	}
	return func() {
		exit()
		k.rest.PutOff()
	}, nil
}
