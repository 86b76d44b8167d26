/*
 * state_advance.c - what an event makes of a state, and of what is known about it.
 */
#include "state_load.h"

#include "event.h"

void
evs_state_advance(EvsFolder *folder, EvsState *state, const EvsEvent *event)
{
	TimestampTz time = evs_event_time(event);

	evs_folder_step(folder, event);
	if (state->event_count == 0 || time > state->occurred_at)
		state->occurred_at = time;
	state->event_count++;
	state->position = event->position;
	state->version = event->version;
	state->recorded_at = event->recorded_at;
	state->has_id = event->has_id;
	if (event->has_id)
		state->id = event->id;
	state->seen_version = event->version;
	state->seen_position = event->position;
}

void
evs_state_finish(EvsFolder *folder, EvsState *state)
{
	/* folds of ours would make a number of nothing */
	state->state = state->event_count > 0 ? evs_folder_state(folder) : evs_initial_state();
}

void
evs_state_saved(EvsState *state)
{
	state->saved_count = state->event_count;
	state->saved_version = state->seen_version;
	state->restores = 0;
	state->rejections = 0;
	state->wanted = false;
}
