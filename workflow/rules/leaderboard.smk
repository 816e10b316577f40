# Which method finds what is really there: every method on every planted case, and one page.


wildcard_constraints:
    method=one_of(STUDY.leaderboard.entries),
    case=one_of(STUDY.leaderboard.scored),


rule score_method:
    input:
        unpack(inputs("score_method")),
    output:
        LAYOUT.leaderboard_scores("{method}", "{case}"),
    log:
        LAYOUT.log("score_method", "{method}/{case}"),
        cost=LAYOUT.leaderboard_cost("{method}", "{case}"),
    benchmark:
        LAYOUT.benchmark("score_method", "{method}/{case}")
    conda:
        CPU_ENV
    resources:
        **cpu(4, 4),
    params:
        spec=spec("score_method"),
    script:
        "../scripts/score_method.py"


rule collect_leaderboard:
    input:
        unpack(inputs("collect_leaderboard")),
    output:
        leaderboard=LAYOUT.leaderboard(),
        table=LAYOUT.leaderboard_table(),
        page=LAYOUT.leaderboard_page(),
    log:
        LAYOUT.log("collect_leaderboard", "leaderboard"),
    benchmark:
        LAYOUT.benchmark("collect_leaderboard", "leaderboard")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("collect_leaderboard"),
    script:
        "../scripts/collect_leaderboard.py"


rule leaderboard:
    input:
        unpack(inputs("leaderboard")),
