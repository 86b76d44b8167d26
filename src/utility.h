/*
 * utility.h - commands that evsource has to know of.
 */
#ifndef EVS_UTILITY_H
#define EVS_UTILITY_H

extern void evs_utility_init(void);

#endif							/* EVS_UTILITY_H */
