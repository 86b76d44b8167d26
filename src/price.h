/*
 * price.h - what a statement takes, however few events it gets.
 */
#ifndef EVS_PRICE_H
#define EVS_PRICE_H

#include "evsource.h"

/* Begin with zeros. */
typedef struct EvsPrice
{
	double		last_events;	/* of the last batch, and what it took (ms) */
	double		last_elapsed;
	double		price;			/* what each takes without its events (ms) */
} EvsPrice;

/* A batch of so many events took so long (ms): what of it was for the events? */
extern double evs_price_without(EvsPrice *price, double events, double elapsed);

#endif							/* EVS_PRICE_H */
