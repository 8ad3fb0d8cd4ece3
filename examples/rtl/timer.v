// The registers of a timer behind AXI-Lite, as `devices.Timer` declares them. With `faulty` high, a 1 that is written to
// STATUS.OVERRUN does not clear it.
module timer (
    input clk, input rst, input faulty,
    input [31:0] s_axil_awaddr, input [2:0] s_axil_awprot, input s_axil_awvalid, output s_axil_awready,
    input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb, input s_axil_wvalid, output s_axil_wready,
    output [1:0] s_axil_bresp, output reg s_axil_bvalid, input s_axil_bready,
    input [31:0] s_axil_araddr, input [2:0] s_axil_arprot, input s_axil_arvalid, output s_axil_arready,
    output reg [31:0] s_axil_rdata, output [1:0] s_axil_rresp, output reg s_axil_rvalid, input s_axil_rready
);
    reg enable, expired, overrun;
    reg [1:0] mode;
    reg [31:0] load;
    wire write = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
    wire read = s_axil_arvalid && !s_axil_rvalid;
    wire [31:0] strobes = {{8{s_axil_wstrb[3]}}, {8{s_axil_wstrb[2]}}, {8{s_axil_wstrb[1]}}, {8{s_axil_wstrb[0]}}};
    assign {s_axil_bresp, s_axil_rresp} = 0;
    assign s_axil_awready = write, s_axil_wready = write, s_axil_arready = read;

    always @(posedge clk)
        if (rst) begin
            {enable, mode, expired, overrun, load, s_axil_bvalid, s_axil_rvalid, s_axil_rdata} <= 0;
            {expired, overrun} <= 2'b11;
        end else begin
            if (s_axil_bready) s_axil_bvalid <= 0;
            if (s_axil_rready) s_axil_rvalid <= 0;
            if (write) begin
                s_axil_bvalid <= 1;
                case (s_axil_awaddr[3:2])
                    0: if (s_axil_wstrb[0]) {mode, enable} <= {s_axil_wdata[5:4], s_axil_wdata[0]};
                    1: if (s_axil_wstrb[0]) begin
                        if (s_axil_wdata[0]) expired <= 0;
                        if (s_axil_wdata[1] && !faulty) overrun <= 0;
                    end
                    2: load <= load & ~strobes | s_axil_wdata & strobes;
                endcase
            end
            if (read) begin
                s_axil_rvalid <= 1;
                case (s_axil_araddr[3:2])
                    0: s_axil_rdata <= {26'd0, mode, 3'd0, enable};
                    1: s_axil_rdata <= {30'd0, overrun, expired};
                    2: s_axil_rdata <= load;
                    3: s_axil_rdata <= 32'h54494d31;
                endcase
            end
        end
endmodule
