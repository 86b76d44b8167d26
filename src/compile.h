/*
 * compile.h - let PL/pgSQL compile what a replay calls as if it were called live.
 */
#ifndef EVS_COMPILE_H
#define EVS_COMPILE_H

extern void evs_compile_init(void);

#endif							/* EVS_COMPILE_H */
